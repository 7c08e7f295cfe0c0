"""What finalists are trained on beside the labelled examples: texts of which the teacher alone says
what they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from canao.artifact.files import write_whole
from canao.artifact.reading import read_json
from canao.errors import InputError
from canao.model.directory.checkpoint import content
from canao.train.data import Example, TextData
from canao.train.distillation.augment import MaskedModel, Neighbours, Replacements, altered
from canao.train.distillation.losses import LOSSES
from canao.train.distillation.words import WholeWords
from canao.train.engine.loop import Progress
from canao.train.engine.storing import storing
from canao.train.options import TrainOptions

_VERSION = 1  # raise it when a change makes other copies
_MOST_BYTES = 1 << 33  # of a file of copies, which no one else makes


class _Copies(msgspec.Struct):
    """A file of altered copies: what they depend on, and their texts, the second one of a pair."""

    key: str
    texts: list[tuple[str, str | None]]


class ExtraExamples:
    """Altered copies of the training examples, and unlabelled texts.

    InputError, before anything is trained, for a model or a tokenizer that makes no copies, and for
    losses that learn nothing of a text without a label.
    """

    def __init__(
        self, options: TrainOptions, data: TextData, unlabelled: Sequence[Example],
        tokenizer: PreTrainedTokenizerBase, directory: Path, device: torch.device,
    ) -> None:  # fmt: skip
        """`tokenizer` is the students': the teacher's, of `directory`, or what they keep of it.
        Words of which it makes several tokens are left alone."""
        self.options, self.data, self.unlabelled = options, data, tuple(unlabelled)
        self.words: WholeWords | None = None
        self.masked: MaskedModel | None = None
        if not self:
            return
        if not any(LOSSES[name].of_teacher for name in options.weights):
            raise InputError(
                f"training: losses are {options.losses}, of which a text without a label has none; "
                "add one, as logits, or leave out --augment and --unlabelled-text"
            )
        if options.augment_model is not None:
            self.masked = MaskedModel(Path(options.augment_model), device)
            if options.prune_vocabulary:
                self.masked.words.limit(tokenizer)
        elif options.augment:
            self.words = WholeWords(tokenizer, str(directory))

    def __bool__(self) -> bool:
        return bool(self.options.augment or self.unlabelled)

    def key(self) -> list[Any]:
        """All that they depend on beside teacher, data and seed; nothing where there are none."""
        texts = [[e.text, e.pair] for e in self.unlabelled]
        return [{"augment": self._copies_key(), "unlabelled": texts}] if self else []

    def examples(
        self, embeddings: Callable[[], Tensor], file: Path, key: str, progress: Progress
    ) -> tuple[Example, ...]:
        """All of them. `embeddings` gives the teacher's, [tokens of the students, width]; copies
        are kept in `file` under `key`, of teacher, data, seed and those tokens."""
        return (*self._copies(embeddings, file, key, progress), *self.unlabelled)

    def _copies_key(self) -> list[Any]:
        model = self.options.augment_model
        held = {} if model is None else content(Path(model))
        return [self.options.augment, held, _VERSION] if self.options.augment else []

    def _copies(
        self, embeddings: Callable[[], Tensor], file: Path, key: str, progress: Progress
    ) -> tuple[Example, ...]:
        if not self.options.augment:
            return ()
        key, no_label = json.dumps([key, self._copies_key()]), self.data.no_label
        try:
            held = read_json(file, _Copies, limit=_MOST_BYTES)
            if held.key == key:
                return tuple(Example(text, pair, no_label) for text, pair in held.texts)
        except InputError:  # none yet, or damaged
            pass
        source: Replacements | None = self.masked
        if source is None:
            assert self.words is not None
            source = Neighbours(self.words, embeddings())
        made = altered(
            self.data.train, source, self.options.augment, self.options.seed, no_label, progress
        )
        row = {"key": key, "texts": [[e.text, e.pair] for e in made]}
        with storing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(row))
        return made
