"""Space: which architectures may be proposed, and how they are encoded as parameters.

The range of each parameter is fixed and depends on no other parameter, so that any Optuna sampler
can be used. This is why the head size is proposed rather than the number of heads: `hidden` is
always a multiple of every head size in the space, and `heads` follows from the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from canao.errors import InputError
from canao.model.arch import Arch, Block

_LEAST_POINTS = 8  # FFN widths on the grid, at least, if the teacher's width can be divided so
_COMMON_HEAD_SIZES = (32, 64)
_HALVES = ("heads", "ffn")  # what of a block is large or small


@dataclass(frozen=True, slots=True)
class Space:
    """A bounded grid of architectures no larger than the teacher.

    layers       largest number of layers; every number from 1 is in the space
    hidden       largest width; widths are the multiples of `hidden_step` up to it
    head_sizes   widths of one head, each a divisor of `hidden_step`; ascending
    ffn          largest feed-forward width; widths are the multiples of `ffn_step` up to it
    precisions   that blocks may have; "" is that of the library
    attention    largest width of a block's heads together; 0: that of the architecture. Only a
                 teacher whose heads are narrower than itself has one
    """

    layers: int
    hidden: int
    hidden_step: int
    head_sizes: tuple[int, ...]
    ffn: int
    ffn_step: int
    precisions: tuple[str, ...] = ("",)
    attention: int = 0

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
        one; the step is at least 32 if the teacher is wide enough. Heads are as wide as the
        teacher's, or wider: narrower ones would be more than it has.
        """
        step = _hidden_step(teacher)
        own = teacher.head_size
        sizes = {size for size in _COMMON_HEAD_SIZES if step % size == 0 and size >= own} | {own}
        return cls(
            layers=teacher.layers,
            hidden=teacher.hidden,
            hidden_step=step,
            head_sizes=tuple(sorted(sizes)),
            ffn=teacher.ffn,
            ffn_step=_ffn_step(teacher.ffn),
            attention=teacher.width if teacher.width < teacher.hidden else 0,
        )

    def heads(self, hidden: int, head_size: int) -> int:
        """The most heads that a block of that width has, and those of what controllers propose."""
        return max(1, min(hidden, self.attention or hidden) // head_size)

    def base(self, hidden: int, head_size: int) -> Arch:
        """One layer of that width, with all heads and the least FFN."""
        return self._alike(1, hidden, head_size, self.ffn_step)

    def _alike(self, layers: int, hidden: int, head_size: int, ffn: int) -> Arch:
        block = Block(self.heads(hidden, head_size), ffn)
        return Arch(hidden, head_size, (block,) * layers)

    def __str__(self) -> str:
        heads = " or ".join(map(str, self.head_sizes))
        own = ", ".join(p or "the library's" for p in self.precisions)
        return (
            f"layers 1 to {self.layers}, hidden {self.hidden_step} to {self.hidden} by "
            f"{self.hidden_step}, heads of {heads}, FFN {self.ffn_step} to {self.ffn} by "
            f"{self.ffn_step}" + (f", precisions {own}" if self.precisions != ("",) else "")
            + (f", {self.attention} wide together at most" if self.attention else "")
        )

    @property
    def size(self) -> int:
        """Number of architectures in the space."""
        widths = (self.hidden // self.hidden_step) * (self.ffn // self.ffn_step)
        return self.layers * widths * len(self.head_sizes)

    @property
    def smallest(self) -> Arch:
        """One layer of the smallest width, with as few heads as possible."""
        return self.base(self.hidden_step, self.head_sizes[-1])

    def contains(self, arch: Arch) -> bool:
        """Whether it is one of those that controllers propose, whose blocks are alike."""
        return (
            arch.is_alike
            and arch.layers <= self.layers
            and arch.hidden <= self.hidden
            and arch.hidden % self.hidden_step == 0
            and arch.head_size in self.head_sizes
            and arch.heads == self.heads(arch.hidden, arch.head_size)
            and arch.ffn <= self.ffn
            and arch.ffn % self.ffn_step == 0
        )

    def admits(self, arch: Arch) -> bool:
        """Whether it may be judged: one of the space, or one whose blocks differ and are no larger
        than those of the space."""
        heads, ffn = self.heads(arch.hidden, arch.head_size), self.choices()["ffn"]
        widest = self._alike(arch.layers, arch.hidden, arch.head_size, self.ffn)
        return self.contains(widest) and all(
            block.heads <= heads and block.ffn in (0, *ffn) and block.precision in self.precisions
            for block in arch.blocks
        )

    def nearest(self, arch: Arch) -> Arch:
        """What controllers are told instead of an architecture whose blocks differ: the one of the
        space with as many layers and about as many FFN units."""
        if self.contains(arch):
            return arch
        units = sum(block.ffn for block in arch.blocks) / arch.layers
        ffn = min(self.choices()["ffn"], key=lambda width: (abs(width - units), width))
        return self._alike(arch.layers, arch.hidden, arch.head_size, ffn)

    def blocks_at(self, arch: Arch) -> dict[str, tuple[int, ...]]:
        """The numbers of heads and of FFN units, ascending, that blocks as wide as `arch` may have;
        besides, they may have none of either."""
        most = self.heads(arch.hidden, arch.head_size)
        return {"heads": tuple(range(1, most + 1)), "ffn": self.choices()["ffn"]}

    def block_moves(self, arch: Arch) -> Iterator[Arch]:
        """Architectures in which one block is a step smaller or larger, or without its attention or
        its FFN, or of another precision; and those in which a block gives such a step to another.
        """
        for i, block in enumerate(arch.blocks):
            changed = [self._step(arch, i, name, sign) for name in _HALVES for sign in (-1, 1)]
            if block.heads and block.ffn:
                changed += [replace(block, heads=0), replace(block, ffn=0)]
            changed += [replace(block, precision=p) for p in self.precisions
                        if p != block.precision]  # fmt: skip
            yield from (_with(arch, {i: one}) for one in changed if one is not None)
        for i, j in permutations(range(arch.layers), 2):
            for name in _HALVES:
                less, more = self._step(arch, i, name, -1), self._step(arch, j, name, 1)
                if less is not None and more is not None:
                    yield _with(arch, {i: less, j: more})

    def _step(self, arch: Arch, i: int, name: str, sign: int) -> Block | None:
        """Block i with a step more or less of one of its sizes; None where there is no such."""
        block, values = arch.blocks[i], (0, *self.blocks_at(arch)[name])
        place = values.index(getattr(block, name)) + sign
        if not 0 <= place < len(values):
            return None
        heads, ffn = (
            (values[place], block.ffn) if name == "heads" else (block.heads, values[place])
        )
        return replace(block, heads=heads, ffn=ffn) if heads or ffn else None

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
        sizes = (int(params[name]) for name in ("layers", "hidden", "head_size", "ffn"))
        return self._alike(*sizes)

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


def _with(arch: Arch, changed: Mapping[int, Block]) -> Arch:
    blocks = tuple(changed.get(i, block) for i, block in enumerate(arch.blocks))
    return replace(arch, blocks=blocks)


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
