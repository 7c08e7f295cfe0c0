"""A model's table of words cut down to the tokens that training sees, while it trains.

Of a vocabulary of 30,000 tokens a task has a few thousand, and of a small model most weights are in
that table: without the other rows, steps of the optimiser, gradients and checkpoints are that much
smaller. Rows that no text has get no gradient in any case; here they get no weight decay either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from canao.model.hf import parts_of
from canao.train.engine.batches import Encoded

_WORTH = 0.5  # of the rows: where more are needed, nothing is cut


@contextmanager
def compact_words(model: PreTrainedModel, seen: Sequence[Encoded]) -> Iterator[None]:
    """Inside the block the model has the rows of tokens that occur in `seen`, and takes texts of no
    others; the ids that it is given stay the same. Afterwards it has all rows again."""
    words = parts_of(model).words
    used = np.unique(np.concatenate([ids for data in seen for ids in (*data.ids, [data.pad])]))
    whole, padding = words.weight, words.padding_idx
    if len(used) > _WORTH * len(whole):
        yield
        return
    rows = torch.from_numpy(used).long().to(whole.device)
    place = torch.zeros(len(whole), dtype=torch.long, device=whole.device)
    place[rows] = torch.arange(len(rows), device=whole.device)
    # Another padding row than the tokenizer's may be among those that no text has.
    kept = int(place[padding]) if padding is not None and padding in used else None
    _hold(words, whole.detach()[rows].clone(), kept)
    hook = words.register_forward_pre_hook(_Places(place))
    try:
        yield
    finally:
        hook.remove()
        with torch.no_grad():
            whole[rows] = words.weight
        words.weight, words.num_embeddings, words.padding_idx = whole, len(whole), padding


def as_compact(words: nn.Embedding, like: nn.Embedding) -> None:
    """Give a table as many rows as another one, and let it find them as that one does, if that one
    is cut down; what they hold is yet to be written."""
    if len(words.weight) == len(like.weight):
        return
    rows = words.weight.new_empty(len(like.weight), words.embedding_dim)
    _hold(words, rows, like.padding_idx)
    words.weight.requires_grad_(False)
    for hook in like._forward_pre_hooks.values():
        words.register_forward_pre_hook(hook)


class _Places:
    """Turns ids of the whole vocabulary into rows of the table."""

    def __init__(self, place: Tensor) -> None:
        self.place = place

    def __call__(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.place[given[0]], *given[1:])


def _hold(words: nn.Embedding, rows: Tensor, padding: int | None) -> None:
    words.weight, words.num_embeddings, words.padding_idx = nn.Parameter(rows), len(rows), padding
