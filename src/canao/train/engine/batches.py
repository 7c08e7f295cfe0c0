"""Tokenised examples, and batches of examples with similar length."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from canao.errors import InputError
from canao.train.reading.examples import Example, word_spans
from canao.train.task_names import CLASSIFICATION, REGRESSION
from canao.train.tasks import task_named
from canao.train.tasks.task import Task

_MULTIPLE = 8  # padded lengths are multiples of this, the vector width of matrix products
_POOL = 32  # batches that are sorted by length together: little padding, still well shuffled
_CPU = torch.device("cpu")
_CHUNK = 4096  # examples given to the tokenizer at a time


@dataclass(frozen=True)
class Encoded:
    """Token ids of examples; `ids[i]` and `types[i]` have shape [tokens of example i].

    labels   of the units that a model says something of: of the examples, or of all their words
             that have a token, [units] or [units, labels]
    task     None: one of whole texts, with classes or values as the type of `labels` says
    words    where units are words: the place of each word's first token in its example, -1 if it
             has none, [words of example i]; None where units are the examples
    typed    whether models take token types
    most     tokens that models take: no batch is wider; None: as many as there are
    """

    ids: tuple[np.ndarray, ...]
    types: tuple[np.ndarray, ...]
    labels: np.ndarray
    pad: int
    task: Task | None = None
    words: tuple[np.ndarray, ...] | None = None
    typed: bool = True
    most: int | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _starts(self) -> np.ndarray:
        """Of each example, its first unit; and how many units there are, [examples + 1]."""
        counts = [int((places >= 0).sum()) for places in self.words or ()]
        return np.cumsum([0, *counts])

    def units(self, index: Sequence[int]) -> list[int]:
        """The units of the examples of `index`, in that order."""
        if self.words is None:
            return list(index)
        return [unit for i in index for unit in range(self._starts[i], self._starts[i + 1])]

    def take(self, index: Sequence[int]) -> Encoded:
        """The examples of `index`, in that order."""
        return replace(
            self,
            ids=tuple(self.ids[i] for i in index),
            types=tuple(self.types[i] for i in index),
            labels=self.labels[self.units(index)],
            words=None if self.words is None else tuple(self.words[i] for i in index),
        )

    def joined(self, more: Encoded) -> Encoded:
        """These examples, then those of `more`, which the same tokenizer made for the same task."""
        labels = np.concatenate([self.labels, more.labels])
        words = None if self.words is None else self.words + (more.words or ())
        return replace(
            self, ids=self.ids + more.ids, types=self.types + more.types, labels=labels, words=words
        )

    def predicted(self, logits: np.ndarray) -> np.ndarray:
        """What logits [units, outputs] predict of the examples, or of all their words: -1 of a word
        without a token."""
        found = (self.task or text_task(logits.shape[1] == 1)).predicted(logits)
        if self.words is None:
            return found
        places = np.concatenate(self.words)
        whole = np.full(len(places), -1, found.dtype)
        whole[places >= 0] = found
        return whole


@dataclass(frozen=True)
class Batch:
    """Padded examples. `ids`, `padding_mask` (1 for a token, 0 for padding) and `types` have shape
    [examples, tokens]; `index` are the places of the examples in the data set, and `labels` those
    of their units (see `Encoded`, as for `typed`). Where units are words, `words` are the example
    and the place of each one's first token, [units] each."""

    index: tuple[int, ...]
    ids: Tensor
    padding_mask: Tensor
    types: Tensor
    labels: Tensor
    task: Task | None = None
    words: tuple[Tensor, Tensor] | None = None
    typed: bool = True

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        words = None if self.words is None else (
            self.words[0].to(device), self.words[1].to(device)
        )
        return replace(
            self, ids=self.ids.to(device), padding_mask=self.padding_mask.to(device),
            types=self.types.to(device), labels=self.labels.to(device), words=words,
        )  # fmt: skip

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What models take."""
        types = {"token_type_ids": self.types} if self.typed else {}
        return {"input_ids": self.ids, "attention_mask": self.padding_mask, **types}

    def of_units(self, outputs: Tensor) -> Tensor:
        """What a model made of each unit, [units, outputs], of what it made of each example or of
        each token."""
        return outputs if self.words is None else outputs[self.words]


def logits_of(model: PreTrainedModel, batch: Batch) -> Tensor:
    """A model's logits of each unit of a batch, [units, outputs]."""
    logits: Tensor = model(**batch.inputs).logits
    return batch.of_units(logits)


def text_task(values: bool) -> Task:
    """The task of whole texts with a value each, or a class."""
    return task_named(REGRESSION if values else CLASSIFICATION)


def encode(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], max_length: int,
    types_known: int = 2, task: Task | None = None, names: Sequence[str] = (),
    most: int | None = None,
) -> Encoded:  # fmt: skip
    """Tokenise examples as a compiled model reads them (inference/tasks/reader.py).

    Sequences are truncated to `max_length` tokens, or to fewer if the tokenizer's settings say so,
    at the end that they name; of a pair, the longer text first. Token types are those of the
    tokenizer if it gives them to its model and the model knows more than one, else 0. Models that
    know none take none. `names` are those of the task's classes, and `most` is as in Encoded.
    InputError if words are asked for, and the tokenizer does not say where its tokens are.
    """
    if task is not None and task.of_words and not tokenizer.is_fast:
        raise InputError(
            "the teacher's tokenizer does not say where in a text a token is, which labels of "
            "words need; save it with a tokenizer.json"
        )
    examples = examples if task is None else task.inputs(examples)
    typed = types_known > 1 and "token_type_ids" in tokenizer.model_input_names
    max_length = min(max_length, tokenizer.model_max_length)
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    places: list[np.ndarray] = []
    of_words = task is not None and task.of_words
    for start in range(0, len(examples), _CHUNK):
        part = examples[start : start + _CHUNK]
        pairs = [e.pair or "" for e in part] if part[0].pair is not None else None
        out = tokenizer(
            [e.text for e in part],
            pairs,
            truncation=True,
            max_length=max_length,
            return_token_type_ids=typed,
            return_attention_mask=False,
            return_offsets_mapping=of_words,
        )
        ids += [np.asarray(row, dtype=np.int32) for row in out["input_ids"]]
        kinds = out["token_type_ids"] if typed else [[0] * len(row) for row in out["input_ids"]]
        types += [np.asarray(row, dtype=np.int8) for row in kinds]
        if of_words:
            places += map(first_tokens, part, out["offset_mapping"])
    labels, words = _labels(examples, task, names), None
    if of_words:
        words, labels = tuple(places), labels[np.concatenate(places) >= 0]
    return Encoded(
        tuple(ids), tuple(types), labels, tokenizer.pad_token_id, task, words,
        typed=types_known > 0, most=most,
    )  # fmt: skip


def first_tokens(example: Example, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """The place of each word's first token, of which `offsets` say where they stand in the text; -1
    for a word without one, as where the text was truncated. int64 [words]"""
    tokens = [(begin + _blanks(example.text[begin:end]), i)
              for i, (begin, end) in enumerate(offsets) if begin < end]  # fmt: skip
    begins = [begin for begin, _ in tokens]
    found = []
    for begin, end in word_spans(example):
        at = bisect_left(begins, begin)
        found.append(tokens[at][1] if at < len(begins) and begins[at] < end else -1)
    return np.asarray(found, np.int64)


def _blanks(text: str) -> int:
    """Blanks at the beginning: some tokenizers count the one before a word to it."""
    return len(text) - len(text.lstrip())


def _labels(
    examples: Sequence[Example], task: Task | None, names: Sequence[str]
) -> np.ndarray:
    if task is not None:
        return task.targets(examples, names)
    labels: np.ndarray = np.asarray([e.label for e in examples])
    return labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64)


def collate(data: Encoded, index: Sequence[int]) -> Batch:
    """The examples of `index`, padded to the longest of them."""
    longest = max(len(data.ids[i]) for i in index)
    width = -(-longest // _MULTIPLE) * _MULTIPLE
    if data.most is not None:
        width = max(longest, min(width, data.most))
    ids = np.full((len(index), width), data.pad, dtype=np.int64)
    mask = np.zeros((len(index), width), dtype=np.int64)
    types = np.zeros((len(index), width), dtype=np.int64)
    for row, i in enumerate(index):
        length = len(data.ids[i])
        ids[row, :length] = data.ids[i]
        types[row, :length] = data.types[i]
        mask[row, :length] = 1
    return Batch(
        tuple(index),
        torch.from_numpy(ids),
        torch.from_numpy(mask),
        torch.from_numpy(types),
        torch.from_numpy(data.labels[data.units(index)]),
        data.task,
        _words(data, index),
        data.typed,
    )


def _words(data: Encoded, index: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    """The row and the place of the first token of each word that has one."""
    if data.words is None:
        return None
    kept = [data.words[i][data.words[i] >= 0] for i in index]
    rows = [np.full(len(places), row, np.int64) for row, places in enumerate(kept)]
    return torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(kept))


def training_order(data: Encoded, size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch: every example once, shuffled, in batches of similar length."""
    shuffle = random.Random(f"{seed} {epoch}")
    order = list(range(len(data)))
    shuffle.shuffle(order)
    batches = []
    for start in range(0, len(order), size * _POOL):
        pool = sorted(order[start : start + size * _POOL], key=lambda i: len(data.ids[i]))
        batches += [pool[i : i + size] for i in range(0, len(pool), size)]
    shuffle.shuffle(batches)
    return batches


def evaluation_batches(
    data: Encoded, size: int, device: torch.device = _CPU
) -> Iterator[Batch]:
    """Every example once, the longest first, so that a lack of memory shows at once."""
    order = sorted(range(len(data)), key=lambda i: -len(data.ids[i]))
    for start in range(0, len(order), size):
        yield collate(data, order[start : start + size]).to(device)
