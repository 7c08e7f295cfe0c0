"""Rankers: which of two architectures makes the better student, said before either is trained.

    short      the score after a few steps of distillation, as in the paper
    supernet   the score as a part of a supernet, which is trained once (supernet.py)
    fitted     the score of a student as it starts, with the teacher's weights fitted to it
    pruning    what is kept of the teacher, by the errors of second-order pruning (pruning.py)

How well each tells what full training comes to is what benchmarks/landscape.py measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from canao.model.arch import Arch
from canao.train.inheritance.inherit import Kept
from canao.train.inheritance.pruning import PruningErrors
from canao.train.metrics import Score
from canao.train.options import TrainOptions
from canao.train.ranking.supernet import Supernet

KEPT = "share_kept"  # what the ranker 'pruning' calls its score


class Workshop(Protocol):
    """What rankers ask of a trainer."""

    @property
    def options(self) -> TrainOptions: ...

    def student(self, arch: Arch) -> PreTrainedModel:
        """A student as it starts: with the teacher's weights, fitted."""

    def shortly_trained(self, arch: Arch) -> PreTrainedModel:
        """A student after `options.quick_steps` of distillation."""

    def supernet(self) -> Supernet:
        """The trained supernet; the first call trains it."""

    def score(self, model: PreTrainedModel) -> Score:
        """The score of a model on the development set."""

    def teacher_arch(self) -> Arch:
        """The teacher's architecture."""

    def errors(self) -> PruningErrors:
        """What each layer of the teacher loses with fewer heads or FFN units."""

    def kept(self, arch: Arch) -> Kept:
        """What a student keeps of the teacher."""

    def worth_of_width(self, kept: Kept) -> float:
        """The share of the importance of the teacher's hidden dimensions that is kept."""


class Ranker(Protocol):
    """A way to rank architectures. `shop` is the trainer that it asks."""

    def key(self, shop: Workshop) -> list[Any]:
        """What its scores depend on, beside the teacher and the data, in JSON form."""

    def score(self, shop: Workshop, arch: Arch) -> Score:
        """The score of an architecture: the larger, the better."""


class _ShortTraining:
    def key(self, shop: Workshop) -> list[Any]:
        options = shop.options
        return [options.quick_steps, options.student_lr, *options.losses_key]

    def score(self, shop: Workshop, arch: Arch) -> Score:
        return shop.score(shop.shortly_trained(arch))


class _PartOfSupernet:
    def key(self, shop: Workshop) -> list[Any]:
        options = shop.options
        return ["supernet", options.supernet_steps, options.student_lr, *options.losses_key]

    def score(self, shop: Workshop, arch: Arch) -> Score:
        net = shop.supernet()
        with torch.no_grad():
            student = net.student(arch)
        return shop.score(student)


class _FittedStart:
    def key(self, shop: Workshop) -> list[Any]:
        return ["fitted"]

    def score(self, shop: Workshop, arch: Arch) -> Score:
        return shop.score(shop.student(arch))


class _KeptShare:
    def key(self, shop: Workshop) -> list[Any]:
        return ["pruning"]

    def score(self, shop: Workshop, arch: Arch) -> Score:
        """One less the mean error of the teacher's halves, those left out being lost whole, times
        the share of the importance of its hidden dimensions that is kept."""
        errors, kept = shop.errors(), shop.kept(arch)
        halves = 2 * shop.teacher_arch().layers
        mine = sum(
            2.0 - errors.of_heads(i, _teacher_heads(shop, arch, block.heads))
            - errors.of_ffn(i, block.ffn)
            for i, block in zip(kept.layers, arch.blocks, strict=True)
        )  # fmt: skip
        return Score({KEPT: mine / halves * shop.worth_of_width(kept)}, KEPT)


def _teacher_heads(shop: Workshop, arch: Arch, heads: int) -> int:
    """How many of the teacher's heads are as wide as `heads` of the student's."""
    return min(shop.teacher_arch().heads, heads * arch.head_size // shop.teacher_arch().head_size)


_MAKERS: Mapping[str, Callable[[], Ranker]] = MappingProxyType(
    {"short": _ShortTraining, "supernet": _PartOfSupernet, "fitted": _FittedStart,
     "pruning": _KeptShare}  # fmt: skip
)


def ranker(name: str) -> Ranker:
    """The ranker of that name, one of `options.RANKERS`."""
    return _MAKERS[name]()
