"""The modules of a classifier by their role, whatever its family calls them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from canao.errors import InputError

# MobileBERT's NoNorm is one of these as well: it has a scale and a shift, and takes no mean.
Norm: TypeAlias = nn.LayerNorm

# Attention of queries, keys and values, [tokens, width], with so many heads.
Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Attention:
    """The modules of a layer's attention; `heads` is how many heads there are."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    norm: Norm
    heads: int


@dataclass(frozen=True)
class Ffn:
    """The modules of a feed-forward network."""

    up: nn.Linear
    activation: Callable[[Tensor], Tensor]
    down: nn.Linear
    norm: Norm


@dataclass(frozen=True)
class Inside:
    """What a teacher's layer computes of hidden states, [tokens, width] each.

    query, key, value   of all heads, one after another
    total, middle       after attention: with the residual, and behind the norm
    up                  of all FFN units, before the activation
    after, end          after the FFN: with the residual, and behind the norm
    """

    query: Tensor
    key: Tensor
    value: Tensor
    total: Tensor
    middle: Tensor
    up: Tensor
    after: Tensor
    end: Tensor


@dataclass(frozen=True)
class Layer:
    """A layer of an encoder: attention, then feed-forward networks. A student's may lack either; a
    family whose layers are others than BERT's has a class of its own for them."""

    attention: Attention | None
    ffns: tuple[Ffn, ...]

    @property
    def ffn(self) -> Ffn | None:
        """The only FFN of a layer like BERT's."""
        return self.ffns[0] if self.ffns else None

    @property
    def end(self) -> Norm:
        """The norm whose output is the layer's."""
        return self.norms[-1]

    @property
    def norms(self) -> tuple[Norm, ...]:
        """The norms that write hidden states."""
        halves = (self.attention, *self.ffns)
        return tuple(half.norm for half in halves if half is not None)

    def as_bert(self) -> Layer:
        """The layer as one of BERT's that computes nearly the same."""
        return self

    def compared(self, state: Tensor) -> Tensor:
        """Hidden states behind this layer, [..., hidden], as students are compared with them."""
        return state

    def aims(self, seen: Inside) -> Inside:
        """What layers of a student are fitted to, of what this layer computes."""
        return seen

    def inside(self, state: Tensor, attend: Attend) -> Inside:
        """What this layer, of a teacher, computes of hidden states [tokens, width]."""
        attention, ffn = both(self)
        query, key, value = attention.query(state), attention.key(state), attention.value(state)
        total = state + attention.output(attend(query, key, value, attention.heads))
        middle = attention.norm(total)
        up = ffn.up(middle)
        after = middle + ffn.down(ffn.activation(up))
        return Inside(query, key, value, total, middle, up, after, ffn.norm(after))


def both(layer: Layer) -> tuple[Attention, Ffn]:
    """The halves of a layer like BERT's that has both."""
    attention, ffns = whole(layer)
    return attention, ffns[0]


def whole(layer: Layer) -> tuple[Attention, tuple[Ffn, ...]]:
    """Attention and FFNs of a layer that has both, as a teacher's have."""
    if layer.attention is None or not layer.ffns:
        raise InputError("a layer of the teacher has no attention or no FFN; give a whole model")
    return layer.attention, layer.ffns


@dataclass(frozen=True)
class Embeddings:
    """What makes the hidden states that the first layer reads.

    types        None where a family knows no token types
    projection   from narrower vectors to hidden states; None where the tables are as wide
    trigram      whether the projection reads words alone, each with its two neighbours, and
                 positions, types and norm come behind it; else it comes last
    first        the row of `positions` for a text's first token
    """

    words: nn.Embedding
    positions: nn.Embedding
    types: nn.Embedding | None
    norm: Norm
    projection: nn.Linear | None = None
    trigram: bool = False
    first: int = 0

    @property
    def end(self) -> nn.Linear | Norm:
        """The module whose output are the hidden states."""
        return self.norm if self.projection is None or self.trigram else self.projection

    def sums(self, ids: Tensor, types: Tensor) -> Tensor:
        """What the norm reads, of ids and token types [texts, tokens]: [texts, tokens, width]."""
        words = self.words(ids)
        if self.trigram:
            assert self.projection is not None
            words = self.projection(_with_neighbours(words))
        places = torch.arange(self.first, self.first + ids.shape[1], device=ids.device)
        if self.types is not None:
            words = words + self.types(types)
        return words + self.positions(places)

    def __call__(self, ids: Tensor, types: Tensor) -> Tensor:
        """The hidden states, [texts, tokens, hidden]."""
        out: Tensor = self.norm(self.sums(ids, types))
        if self.projection is None or self.trigram:
            return out
        return self.projection(out)


def _with_neighbours(words: Tensor) -> Tensor:
    """The next, this and the previous token's vector side by side; zeros where there is none."""
    none = torch.zeros_like(words[:, :1])
    after, before = torch.cat([words[:, 1:], none], 1), torch.cat([none, words[:, :-1]], 1)
    return torch.cat([after, words, before], 2)


@dataclass(frozen=True)
class Parts:
    """The modules of a model: embeddings, layers from the input up, and its head. Of a text it
    reads the first token, through a linear layer (`pooler`) and an activation if it has them. A
    head of other kinds has no pooler, and reads each token, or the mean of a text's if it
    `averages`."""

    embeddings: Embeddings
    layers: tuple[Layer, ...]
    pooler: nn.Linear | None
    activation: Callable[[Tensor], Tensor]
    head: nn.Linear
    averages: bool = False

    def pooled(self, states: Tensor) -> Tensor:
        """What the last layer reads, of the hidden states of units, [units, hidden] both."""
        return states if self.pooler is None else self.activation(self.pooler(states))

    @property
    def words(self) -> nn.Embedding:
        """The table of word vectors."""
        return self.embeddings.words

