"""Tokenised examples, and batches of examples with similar length."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from canao.train.data import Example

_MULTIPLE = 8  # padded lengths are multiples of this, the vector width of matrix products
_POOL = 32  # batches that are sorted by length together: little padding, still well shuffled
_CPU = torch.device("cpu")
_CHUNK = 4096  # examples given to the tokenizer at a time


@dataclass(frozen=True)
class Encoded:
    """Token ids of examples; `ids[i]` and `types[i]` have shape [tokens of example i].

    typed   whether models take token types
    most    tokens that models take: no batch is wider; None: as many as there are
    """

    ids: tuple[np.ndarray, ...]
    types: tuple[np.ndarray, ...]
    labels: np.ndarray
    pad: int
    typed: bool = True
    most: int | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Sequence[int]) -> Encoded:
        """The examples of `index`, in that order."""
        return replace(
            self,
            ids=tuple(self.ids[i] for i in index),
            types=tuple(self.types[i] for i in index),
            labels=self.labels[list(index)],
        )

    def joined(self, more: Encoded) -> Encoded:
        """These examples, then those of `more`, which the same tokenizer made."""
        labels = np.concatenate([self.labels, more.labels])
        return replace(self, ids=self.ids + more.ids, types=self.types + more.types, labels=labels)


@dataclass(frozen=True)
class Batch:
    """Padded examples. `ids`, `padding_mask` (1 for a token, 0 for padding) and `types` have shape
    [examples, tokens]; `index` are the places of the examples in the data set; `typed` is as in
    Encoded."""

    index: tuple[int, ...]
    ids: Tensor
    padding_mask: Tensor
    types: Tensor
    labels: Tensor
    typed: bool = True

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return replace(
            self, ids=self.ids.to(device), padding_mask=self.padding_mask.to(device),
            types=self.types.to(device), labels=self.labels.to(device),
        )  # fmt: skip

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What models take."""
        types = {"token_type_ids": self.types} if self.typed else {}
        return {"input_ids": self.ids, "attention_mask": self.padding_mask, **types}


def encode(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], max_length: int,
    types_known: int = 2, most: int | None = None,
) -> Encoded:  # fmt: skip
    """Tokenise examples as a compiled model reads them (inference/tasks/reader.py).

    Sequences are truncated to `max_length` tokens, or to fewer if the tokenizer's settings say so,
    at the end that they name; of a pair, the longer text first. Token types are those of the
    tokenizer if it gives them to its model and the model knows more than one, else 0. Models that
    know none take none. `most` is as in Encoded.
    """
    typed = types_known > 1 and "token_type_ids" in tokenizer.model_input_names
    max_length = min(max_length, tokenizer.model_max_length)
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
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
        )
        ids += [np.asarray(row, dtype=np.int32) for row in out["input_ids"]]
        kinds = out["token_type_ids"] if typed else [[0] * len(row) for row in out["input_ids"]]
        types += [np.asarray(row, dtype=np.int8) for row in kinds]
    labels = np.asarray([e.label for e in examples])
    labels = labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64)
    return Encoded(
        tuple(ids), tuple(types), labels, tokenizer.pad_token_id, types_known > 0, most
    )


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
        torch.from_numpy(data.labels[list(index)]),
        data.typed,
    )


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
