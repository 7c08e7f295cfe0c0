"""Which kernels an architecture's library runs, known without compiling it.

A kernel's name says what it computes and how, so that equal names are equal code. The kernels of a
library are those outside of the layers, and those of each half of a layer: its attention, its FFN.
A half has the same kernels wherever it stands in libraries for one instruction set, which follows
from the precisions of all blocks; but for its last, which may round its rows for the half after it.
So one model in which a half occurs, imported and cut into kernels but not compiled, tells those of
every sequence of blocks with that half: exactly where the same precision, or nothing, followed it
there too, and elsewhere but for the rounding, which takes a hundredth of a layer's time or so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from canao.model.arch import Arch, Block
from canao.target import Target


class Kernels(Protocol):
    """Says of an architecture what its library runs."""

    def __call__(self, arch: Arch) -> Sequence[tuple[str, int]]:
        """The kernels in the order in which they run: the name of each, and to which half of a
        layer it belongs, as 2 * layer for its attention and 2 * layer + 1 for its FFN, or -1 for
        what is in no layer."""
        ...

    def isa(self, arch: Arch) -> str:
        """The instruction set that the library is compiled for."""
        ...


class Known(msgspec.Struct):
    """What is known, by instruction set: kernels outside of the layers by width, and those of each
    half, in any place and before each precision. A library that turned out to run others than its
    halves say is in `whole`."""

    outside: dict[str, list[str]] = {}
    halves: dict[str, list[str]] = {}
    whole: dict[str, list[str]] = {}


class KernelNames:
    """Tells the kernels of architectures, and remembers in `known` what it was told of halves."""

    def __init__(self, kernels: Kernels, known: Known) -> None:
        self._kernels, self.known = kernels, known

    def _isa(self, arch: Arch) -> str:
        return f"{self._kernels.isa(arch)} "

    def _outside(self, arch: Arch) -> str:
        return f"{self._isa(arch)}H{arch.hidden}"

    def _half(self, arch: Arch, half: Block) -> str:
        size = f" D{arch.head_size}" if half.heads else ""
        return f"{self._isa(arch)}H{arch.hidden}{size} {half}"

    def of(self, arch: Arch) -> Counter[str]:
        """How often the library of `arch` runs each kernel."""
        found = self.recalled(arch)
        if found is None:
            self._ask(arch)
            found = self.recalled(arch)
        assert found is not None
        return found

    def recalled(self, arch: Arch) -> Counter[str] | None:
        """The same from what is known already; None where a half is not."""
        if str(arch) in self.known.whole:
            return Counter(self.known.whole[str(arch)])
        names = self.outside(arch)
        if names is None:
            return None
        total, halves = Counter(names), _halves(arch.blocks)
        for (_, half), after in zip(halves, _after(halves), strict=True):
            known = _known(self.known.halves, self._half(arch, half), after)
            if known is None:
                return None
            total.update(known)
        return total

    def outside(self, arch: Arch) -> Counter[str] | None:
        """The kernels outside of the layers, if they are known."""
        names = _known(self.known.outside, self._outside(arch), _first(arch))
        return None if names is None else Counter(names)

    def learn(self, arch: Arch, names: Sequence[str]) -> None:
        """Note the kernels that a library of `arch` runs, if they are others than was thought."""
        if self.of(arch) != Counter(names):
            self.known.whole[str(arch)] = sorted(names)

    def _ask(self, arch: Arch) -> None:
        """Import a model with each of the halves before another; the first comes last again."""
        once = tuple(dict.fromkeys(arch.blocks))
        asked = replace(arch, blocks=(*once, *once[:1]))
        found: dict[int, list[str]] = {}
        for name, place in self._kernels(asked):
            found.setdefault(place, []).append(name)
        halves = _halves(asked.blocks)
        _note(self.known.outside, self._outside(arch), _first(arch), found.get(-1, []))
        for (place, half), after in zip(halves, _after(halves), strict=True):
            _note(self.known.halves, self._half(arch, half), after, found.get(place, []))


class Imported:
    """Kernels as told by importing the model that `blank` makes of an architecture, and by
    scheduling it for the target as `compile_model` would."""

    def __init__(self, blank: Callable[[Arch], Any], target: Target, precision: str) -> None:
        self._blank, self._target, self._precision = blank, target, precision

    def __call__(self, arch: Arch) -> list[tuple[str, int]]:
        from canao.compiler.loading import load_model
        from canao.compiler.pipeline import compile_graph
        from canao.model.families.table import half_of

        graph = load_model(self._blank(arch))[1]
        stages = compile_graph(graph, self._target, precision=self._precision)
        names, regions = stages.schedule.kernel_names(), stages.program.regions
        return [
            (name, max((half_of(n.where) for n in region.made_of), default=-1))
            for name, region in zip(names, regions, strict=True)
            if name
        ]

    def isa(self, arch: Arch) -> str:
        """The instruction set that the library of an architecture is compiled for."""
        from canao.lower.scheduling import target_in

        own = {block.precision for block in arch.blocks if block.precision}
        return target_in(self._target, self._precision, *sorted(own)).kernels_for


def survey(arch: Arch, heads: Sequence[int], ffn: Sequence[int], layers: int) -> Iterator[Arch]:
    """Architectures as wide as `arch`, of `layers` layers at most, in which each number of heads
    and of FFN units occurs: their kernels are those of every sequence of such blocks. Precisions
    are mixed, as they decide together what the library is compiled for."""
    count = max(len(heads), len(ffn))
    precisions = dict.fromkeys(block.precision for block in arch.blocks)
    blocks = [Block(heads[i % len(heads)], ffn[i % len(ffn)], precision)
              for i in range(count) for precision in precisions]  # fmt: skip
    for start in range(0, len(blocks), layers):
        yield replace(arch, blocks=tuple(blocks[start : start + layers]))


def _halves(blocks: Sequence[Block]) -> list[tuple[int, Block]]:
    """The halves of blocks, each with its place."""
    found = []
    for i, block in enumerate(blocks):
        if block.heads:
            found.append((2 * i, replace(block, ffn=0)))
        if block.ffn:
            found.append((2 * i + 1, replace(block, heads=0)))
    return found


# What is known of a half, or of what is outside, wherever that stood, has this after its name.
_ANYWHERE, _LAST = "", " last"


def _before(half: Block) -> str:
    """What a name has after it where a half of this precision follows."""
    return f" before {half.precision or 'the same'}"


def _first(arch: Arch) -> str:
    """What follows what is before the layers."""
    return _before(arch.blocks[0]) if arch.blocks else _LAST


def _after(halves: Sequence[tuple[int, Block]]) -> list[str]:
    """What follows each half."""
    return [*(_before(half) for _, half in halves[1:]), *([_LAST] if halves else [])]


def _known(names: Mapping[str, list[str]], name: str, after: str) -> list[str] | None:
    """The kernels of a half where this follows it, or those that it has elsewhere."""
    return names.get(name + after, names.get(name + _ANYWHERE))


def _note(names: dict[str, list[str]], name: str, after: str, kernels: list[str]) -> None:
    """Note the kernels of a half where this follows it; elsewhere they are those before another."""
    names[name + after] = kernels
    if after != _LAST:
        names[name + _ANYWHERE] = kernels
    names.setdefault(name + _ANYWHERE, kernels)
