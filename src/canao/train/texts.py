"""The texts of a search as its models read them: what teacher and students train on, what finalists
learn beside it, and what their scores are of."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from canao.errors import InputError
from canao.model import hf
from canao.model.inventory.inventory import Inventory
from canao.train.data import Example, TextData
from canao.train.distillation.extra import ExtraExamples
from canao.train.engine.batches import Encoded
from canao.train.engine.compute import computing
from canao.train.engine.loop import Progress
from canao.train.inheritance.vocabulary import Vocabulary
from canao.train.metrics import Score, score
from canao.train.options import TrainOptions
from canao.train.teacher.finetune import predict


class TrainingTexts:
    """The examples of `data` and those beside them, as the teacher's tokenizer cuts them, or as
    that of the students does. Each set is made when it is first asked for, and then kept.

    longest     tokens that the teacher reads of a text
    unlabelled  texts that finalists learn beside the labelled ones
    load        gives the teacher as it came, before any training

    `tokenizer` is the teacher's, `own` what students keep of it, and `extra` what finalists learn
    beside the labelled examples.

    InputError for a tokenizer that does not belong to the model of `config`, and for examples that
    cannot be made.
    """

    def __init__(
        self, source: Path, config: PreTrainedConfig, data: TextData, options: TrainOptions,
        inventory: Inventory, *, longest: int, unlabelled: Sequence[Example], device: torch.device,
        load: Callable[[], PreTrainedModel],
    ) -> None:  # fmt: skip
        self.data, self.options, self.device = data, options, device
        self._takes, self._longest, self._load = hf.takes(config), longest, load
        self.tokenizer = hf.load_tokenizer(source, inventory)
        if len(self.tokenizer) > config.vocab_size:
            raise InputError(
                f"{source}: the tokenizer has {len(self.tokenizer)} tokens, the model "
                f"{config.vocab_size}; they do not belong together"
            )
        self.own = Vocabulary(self.tokenizer)
        if options.prune_vocabulary:
            texts = (*data.train, *unlabelled)
            self.own = Vocabulary.of(source, self.tokenizer, config, texts, options.vocabulary)
        self.extra = ExtraExamples(options, data, unlabelled, self.own.tokenizer, source, device)
        self._train: Encoded | None = None
        self._final: Encoded | None = None
        self._dev: dict[bool, Encoded] = {}  # as the teacher reads it, and as students do
        self._judged: TextData | None = None

    def train_set(self) -> Encoded:
        """The training examples, shuffled: files are often sorted, and parts of them are used."""
        if self._train is None:
            encoded = self.encode(self.data.train)
            order = list(range(len(encoded)))
            random.Random(self.options.seed).shuffle(order)
            self._train = encoded.take(order)
        return self._train

    def final_set(
        self, embeddings: Callable[[], Tensor], file: Path, key: str, progress: Progress
    ) -> Encoded:
        """What finalists are trained on: the training examples, then those without a label.

        `embeddings` gives the teacher's, [its tokens, width]; altered copies are kept in `file`
        under `key`, as `ExtraExamples.examples` says.
        """
        if self._final is None:
            self._final = self.train_set()
            if self.extra:
                more = self.extra.examples(
                    lambda: self.own.kept(embeddings()), file, self.own.key(key), progress
                )
                self._final = self._final.joined(self.encode(more, own=True))
        return self._final

    def dev_set(self, *, teacher: bool = False) -> Encoded:
        """The development set, as the tokenizer of students cuts it, or the teacher's."""
        teacher = teacher or self.own.sizes is None
        if teacher not in self._dev:
            self._dev[teacher] = self.encode(self.data.dev, own=not teacher)
        return self._dev[teacher]

    def encode(
        self, examples: Sequence[Example], *, own: bool = False, whole: bool = False
    ) -> Encoded:
        """As the teacher's tokenizer cuts them, or as the students' `own` does; `whole` texts are
        as long as a library reads them."""
        read, takes = self.own if own else Vocabulary(self.tokenizer), self._takes
        length = self._longest if whole else self.options.max_length
        return read.encode(
            examples, length, takes.types, self.data.task, self.data.labels,
            most=takes.tokens,
        )  # fmt: skip

    def score(self, model: PreTrainedModel, *, teacher: bool = False) -> Score:
        """On the development set, as the tokenizer of students cuts it, or the teacher's."""
        predictions = predict(model, self.dev_set(teacher=teacher))
        return score(predictions, self.judged(), self.options.metric)

    def judged(self) -> TextData:
        """The data whose `dev` predictions are compared with: labelled by the teacher as it came,
        where the task asks what it says."""
        if not self.data.task.asks_teacher(self.data.dev):
            return self.data
        if self._judged is None:
            texts = self.data.task.inputs(self.data.dev)
            # In the midst of training, whose draws must not depend on it.
            with computing(self.device, self.options.threads), torch.random.fork_rng():
                teacher = self._load().to(self.device)
                said = predict(teacher, self.encode(texts, whole=True)).tolist()
            dev = tuple(replace(e, label=tuple(v)) for e, v in zip(texts, said, strict=True))
            self._judged = replace(self.data, dev=dev)
        return self._judged
