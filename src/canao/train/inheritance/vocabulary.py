"""The part of a teacher's vocabulary that its students keep.

Students are trained with all rows of the teacher's word embeddings, and with the teacher's ids, so
that everything that compares the two goes on as it is. A student that is saved has only the rows
that it keeps, and the tokenizer beside it gives their new ids. What it is scored on is cut by that
tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from canao.artifact.files import write_json
from canao.artifact.reading import parse_json, read_json
from canao.artifact.temporary import WorkingDirectory
from canao.errors import CanaoError, InputError
from canao.model.hf import load_tokenizer, parts_of
from canao.model.tokenizing.prune import needed, pruned
from canao.train.data import Example
from canao.train.engine.batches import Encoded, encode
from canao.train.records import digest
from canao.train.tasks.task import Task

_FORM, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_CHUNK = 4096  # examples given to the tokenizer at a time
_CHECKED = 1 << 16  # examples on which both tokenizers are compared
# Some families count positions from the padding token's id, which then has to stay what it is. No
# model with a larger one does: it would have as many rows of positions that nothing reads.
_LARGEST_PADDING = 1000


@dataclass(frozen=True)
class Vocabulary:
    """What a student keeps of its teacher's vocabulary.

    tokenizer   the student's
    rows        [tokens kept] the teacher's id of each token, ascending; None: it keeps all
    before      how many rows the teacher's word embeddings have
    """

    tokenizer: PreTrainedTokenizerBase
    rows: np.ndarray | None = None
    before: int = 0

    @classmethod
    def of(
        cls, directory: Path, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig,
        examples: Sequence[Example], least: int = 0,
    ) -> Vocabulary:  # fmt: skip
        """What `examples` use of the tokenizer of the teacher in `directory`, what any other text
        needs, and its commonest tokens where those are fewer than `least`. InputError if nothing
        can be left out of that tokenizer safely."""
        used = {i for ids in _whole_texts(tokenizer, examples) for i in ids}
        used |= set(_named(config))
        if (config.pad_token_id or 0) < _LARGEST_PADDING:
            used |= set(range((config.pad_token_id or 0) + 1))
        place = str(directory)
        form = parse_json(tokenizer.backend_tokenizer.to_str(), place)
        form["truncation"] = None  # of the texts that it was given last
        rows = needed(place, form, used, least)
        if rows[-1] >= config.vocab_size:
            raise InputError(
                f"{place}: token {rows[-1]} of the tokenizer has no row in the model, which has "
                f"{config.vocab_size}; they do not belong together"
            )
        made = _remade(place, tokenizer, config.model_type, pruned(form, rows), rows)
        found = cls(made, np.asarray(rows, dtype=np.int32), config.vocab_size)
        found._check(place, tokenizer, examples[:_CHECKED])
        return found

    @property
    def sizes(self) -> tuple[int, int] | None:
        """How many rows are kept, and of how many; None where all are."""
        return None if self.rows is None else (len(self.rows), self.before)

    @property
    def facts(self) -> list[str]:
        """What results that depend on it are stored under; nothing where all is kept."""
        return [] if self.rows is None else [digest(self.rows.tolist())]

    def key(self, key: str) -> str:
        """The key of such a result that has `key` where all is kept."""
        return digest(key, *self.facts) if self.facts else key

    def kept(self, table: Tensor) -> Tensor:
        """Of the teacher's word embeddings, [its vocabulary, width], the rows that are kept."""
        if self.rows is None:
            return table
        return table[torch.from_numpy(self.rows).long().to(table.device)]

    def encode(
        self, examples: Sequence[Example], max_length: int, types_known: int,
        task: Task | None = None, names: Sequence[str] = (), most: int | None = None,
    ) -> Encoded:  # fmt: skip
        """Examples as the student's tokenizer cuts them, with the teacher's ids."""
        found = encode(self.tokenizer, examples, max_length, types_known, task, names, most)
        if self.rows is None:
            return found
        ids = tuple(self.rows[row] for row in found.ids)
        return replace(found, ids=ids, pad=int(self.rows[found.pad]))

    def told(
        self, tokenizer: PreTrainedTokenizerBase, dev: Sequence[Example]
    ) -> tuple[str, ...]:
        """In a line, what is kept of the teacher's `tokenizer`, and how many of the development
        texts are cut otherwise; nothing where all is kept."""
        if self.rows is None:
            return ()
        pairs = zip(_whole_texts(tokenizer, dev), _whole_texts(self.tokenizer, dev), strict=True)
        finer = sum(ids != self.rows[own].tolist() for ids, own in pairs)
        return (
            f"vocabulary: students keep {len(self.rows):,} of the teacher's {self.before:,} "
            f"tokens; {finer} of the {len(dev)} development texts have others, which are cut into "
            "pieces",
        )

    def shrink(self, student: PreTrainedModel) -> None:
        """Leave out of a student, in place, the rows that are not kept."""
        if self.rows is None:
            return
        words = parts_of(student).words
        words.weight = nn.Parameter(self.kept(words.weight.detach()).clone())
        words.num_embeddings = len(self.rows)
        if words.padding_idx is not None:
            words.padding_idx = self._new(words.padding_idx)
        configs = (student.config, student.base_model.config)  # of most models one and the same
        for config in {id(config): config for config in configs}.values():
            self.configure(config)

    def configure(self, config: PreTrainedConfig) -> None:
        """Make a configuration of the teacher's vocabulary, in place, one of what is kept."""
        if self.rows is None:
            return
        for name in _token_entries(config.to_dict()):
            setattr(config, name, _each(getattr(config, name), self._new))
        config.vocab_size = len(self.rows)

    def _new(self, index: int) -> int | None:
        assert self.rows is not None
        at = int(np.searchsorted(self.rows, index))
        return at if at < len(self.rows) and self.rows[at] == index else None

    def _check(
        self, place: str, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
    ) -> None:
        """InputError unless both tokenizers cut the examples alike."""
        assert self.rows is not None
        mine = _whole_texts(self.tokenizer, examples)
        for ids, own in zip(_whole_texts(tokenizer, examples), mine, strict=True):
            if ids != self.rows[own].tolist():
                raise _unprunable(place, "it cuts texts otherwise without the others")


def _whole_texts(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> Iterator[list[int]]:
    """The ids of each example, of all of its text, however long."""
    for start in range(0, len(examples), _CHUNK):
        part = examples[start : start + _CHUNK]
        pairs = [e.pair or "" for e in part] if part[0].pair is not None else None
        yield from tokenizer(
            [e.text for e in part], pairs, truncation=False, return_attention_mask=False,
            verbose=False,
        )["input_ids"]  # fmt: skip


def _remade(
    place: str, tokenizer: PreTrainedTokenizerBase, family: str, form: dict[str, Any],
    rows: Sequence[int],
) -> PreTrainedTokenizerBase:  # fmt: skip
    """The tokenizer with another tokenizer.json, read and judged as one from a user is, beside a
    model of that family."""
    table = {old: new for new, old in enumerate(rows)}
    with WorkingDirectory("canao-tokenizer") as folder:
        tokenizer.save_pretrained(folder)
        write_json(folder / "config.json", {"model_type": family})
        write_json(folder / _FORM, form)
        settings = read_json(folder / _CONFIG)
        ids = {name: _each(settings[name], table.get) for name in _token_entries(settings)}
        write_json(folder / _CONFIG, settings | ids)
        try:
            made = load_tokenizer(folder)
        except CanaoError as error:
            reason = str(error).replace(f"{folder}/", "").partition(";")[0]
            raise _unprunable(place, reason) from None
    expected = {text: table[i] for text, i in tokenizer.get_vocab().items() if i in table}
    if made.get_vocab() != expected:
        raise _unprunable(place, "its class of tokenizer gives ids of its own")
    return made


def _unprunable(place: str, why: str) -> InputError:
    return InputError(
        f"{place}: its tokenizer cannot be pruned: {why}; leave out --prune-vocabulary"
    )


def _named(config: PreTrainedConfig) -> Iterator[int]:
    """The ids of tokens that a configuration names and that have rows."""
    for name in _token_entries(config.to_dict()):
        value = getattr(config, name)
        several = value if isinstance(value, list) else [value]
        yield from (i for i in several if 0 <= i < config.vocab_size)


def _token_entries(settings: Mapping[str, Any]) -> list[str]:
    """The entries of settings that hold ids of tokens: one, or a list of them."""
    return [
        name for name, value in settings.items()
        if (name.endswith("_token_id") or name == "unk_id")
        and all(isinstance(one, int) for one in (value if isinstance(value, list) else [value]))
    ]  # fmt: skip


def _each(value: Any, change: Callable[[int], int | None]) -> Any:
    return [change(one) for one in value] if isinstance(value, list) else change(value)
