"""Space: which architectures may be proposed, and how they are encoded as parameters.

The range of each parameter is fixed and depends on no other parameter, so that any Optuna sampler
can be used. This is why the head size is proposed rather than the number of heads: `hidden` is
always a multiple of every head size in the space, and `heads` follows from the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from canao.errors import InputError
from canao.model.arch import Arch

_LEAST_POINTS = 8  # FFN widths on the grid, at least, if the teacher's width can be divided so
_COMMON_HEAD_SIZES = (32, 64)


@dataclass(frozen=True, slots=True)
class Space:
    """A bounded grid of architectures no larger than the teacher.

    layers       largest number of layers; every number from 1 is in the space
    hidden       largest width; widths are the multiples of `hidden_step` up to it
    head_sizes   widths of one head, each a divisor of `hidden_step`; ascending
    ffn          largest feed-forward width; widths are the multiples of `ffn_step` up to it
    """

    layers: int
    hidden: int
    hidden_step: int
    head_sizes: tuple[int, ...]
    ffn: int
    ffn_step: int

    def __post_init__(self) -> None:
        for name in ("hidden", "ffn"):
            most, step = getattr(self, name), getattr(self, f"{name}_step")
            if step < 1 or most < step or most % step:
                raise InputError(f"search space: {name}_step {step} does not divide {name} {most}")
        if self.layers < 1:
            raise InputError(f"search space: layers is {self.layers}; give a whole number from 1")
        if not self.head_sizes or any(self.hidden_step % size for size in self.head_sizes):
            raise InputError(
                f"search space: head sizes {self.head_sizes} must divide "
                f"hidden_step {self.hidden_step}"
            )

    @classmethod
    def of_teacher(cls, teacher: Arch) -> Space:
        """Every architecture up to the teacher's, the teacher's own included.

        Hidden widths are multiples of whole teacher heads, because a student inherits heads one by
        one; the step is at least 32 if the teacher is wide enough.
        """
        step = _hidden_step(teacher)
        sizes = {size for size in _COMMON_HEAD_SIZES if step % size == 0} | {teacher.head_size}
        return cls(
            layers=teacher.layers,
            hidden=teacher.hidden,
            hidden_step=step,
            head_sizes=tuple(sorted(sizes)),
            ffn=teacher.ffn,
            ffn_step=_ffn_step(teacher.ffn),
        )

    def __str__(self) -> str:
        heads = " or ".join(map(str, self.head_sizes))
        return (
            f"layers 1 to {self.layers}, hidden {self.hidden_step} to {self.hidden} by "
            f"{self.hidden_step}, heads of {heads}, FFN {self.ffn_step} to {self.ffn} by "
            f"{self.ffn_step}"
        )

    @property
    def size(self) -> int:
        """Number of architectures in the space."""
        widths = (self.hidden // self.hidden_step) * (self.ffn // self.ffn_step)
        return self.layers * widths * len(self.head_sizes)

    @property
    def smallest(self) -> Arch:
        """One layer of the smallest width, with as few heads as possible."""
        heads = self.hidden_step // self.head_sizes[-1]
        return Arch.uniform(1, self.hidden_step, heads, self.ffn_step)

    def contains(self, arch: Arch) -> bool:
        return (
            arch.layers <= self.layers
            and arch.hidden <= self.hidden
            and arch.hidden % self.hidden_step == 0
            and arch.head_size in self.head_sizes
            and arch.ffn <= self.ffn
            and arch.ffn % self.ffn_step == 0
        )

    def __iter__(self) -> Iterator[Arch]:
        """Every architecture once, the smallest sizes first."""
        names = tuple(self.choices())
        for values in product(*self.choices().values()):
            yield self.decode(dict(zip(names, values, strict=True)))

    def choices(self) -> dict[str, tuple[int, ...]]:
        """The values of each parameter, ascending; the parameters in the order they are decided."""
        return {
            "layers": tuple(range(1, self.layers + 1)),
            "hidden": tuple(range(self.hidden_step, self.hidden + 1, self.hidden_step)),
            "head_size": self.head_sizes,
            "ffn": tuple(range(self.ffn_step, self.ffn + 1, self.ffn_step)),
        }

    def distributions(self) -> dict[str, BaseDistribution]:
        """The same parameters as Optuna distributions."""
        return {
            "layers": IntDistribution(1, self.layers),
            "hidden": IntDistribution(self.hidden_step, self.hidden, step=self.hidden_step),
            "head_size": CategoricalDistribution(self.head_sizes),
            "ffn": IntDistribution(self.ffn_step, self.ffn, step=self.ffn_step),
        }

    def decode(self, params: Mapping[str, Any]) -> Arch:
        """The architecture with these parameters."""
        hidden = int(params["hidden"])
        heads = hidden // int(params["head_size"])
        return Arch.uniform(int(params["layers"]), hidden, heads, int(params["ffn"]))

    def encode(self, arch: Arch) -> dict[str, int]:
        """The parameters of an architecture; InputError if it is not in the space."""
        if not self.contains(arch):
            raise InputError(f"architecture {arch} is not in the search space ({self})")
        return {
            "layers": arch.layers,
            "hidden": arch.hidden,
            "head_size": arch.head_size,
            "ffn": arch.ffn,
        }

    def neighbours(self, arch: Arch) -> Iterator[Arch]:
        """Architectures one step away in one parameter, smaller ones first."""
        params, choices = self.encode(arch), self.choices()
        for step in (-1, 1):
            for name, values in choices.items():
                place = values.index(params[name]) + step
                if 0 <= place < len(values):
                    yield self.decode(params | {name: values[place]})


def _hidden_step(teacher: Arch) -> int:
    least = min(32, max(1, teacher.hidden // 4))
    for heads in range(1, teacher.heads + 1):
        step = heads * teacher.head_size
        if teacher.heads % heads == 0 and step >= least:
            return step
    return teacher.hidden


def _ffn_step(ffn: int) -> int:
    for step in (128, 64, 32, 16, 8, 4, 2):
        if ffn % step == 0 and ffn // step >= _LEAST_POINTS:
            return step
    return 1
