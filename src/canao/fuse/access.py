"""Strided access: at which element of a value in memory a view's index reads or writes.

A kernel reads its operands through views: from the value on, each view makes an Access of the one
before (`through`). It writes its result through views too: the output is contiguous, and from it
backwards each view says at which strides its input lies in it (`stored_as`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from canao.graph.ir import Dim, Graph, Node, Shape, dim_add, dim_div, dim_mul
from canao.graph.ops import OPS


def contiguous(shape: Shape) -> tuple[Dim, ...]:
    """Row-major strides, in elements."""
    strides: list[Dim] = []
    step: Dim = 1
    for size in reversed(shape):
        strides.append(step)
        step = dim_mul(step, size)
    return tuple(reversed(strides))


@dataclass(frozen=True, slots=True)
class Access:
    """Element [i...] is base[offset + sum(i * stride)]."""

    base: str
    shape: Shape
    strides: tuple[Dim, ...]
    offset: Dim = 0

    @classmethod
    def of(cls, base: str, shape: Shape) -> Access:
        return cls(base, shape, contiguous(shape))

    def through(self, n: Node, shape: Shape) -> Access | None:
        """This access seen through a view of `shape`; None where strides cannot say it."""
        if n.op == "transpose":
            return self.transposed(n.attribute("perm"))
        if n.op == "slice":
            step = self.strides[n.attribute("axis")]
            offset = dim_add(self.offset, dim_mul(n.attribute("start"), step))
            return Access(self.base, shape, self.strides, offset)
        if n.op == "expand":
            return self.broadcast(shape)
        if n.op == "flip":
            axis = n.attribute("axis")
            turned = list(self.strides)
            turned[axis] = dim_mul(-1, turned[axis])
            last = dim_mul(dim_add(shape[axis], -1), self.strides[axis])
            return Access(self.base, shape, tuple(turned), dim_add(self.offset, last))
        if n.op == "diagonals":
            step = self.strides[-1]
            first = dim_add(self.offset, dim_mul(n.attribute("longest") - 1, step))
            return Access(self.base, shape, (*self.strides[:-1], dim_mul(-1, step), step), first)
        strides = _reshaped(self.shape, self.strides, shape)
        return None if strides is None else Access(self.base, shape, strides, self.offset)

    def transposed(self, perm: Sequence[int]) -> Access:
        """This access with its dimensions in the order `perm`."""
        shape, strides = (tuple(x[p] for p in perm) for x in (self.shape, self.strides))
        return Access(self.base, shape, strides, self.offset)

    def shifted(self, by: Sequence[Dim]) -> Access:
        """This access with index i + by in place of i, in the leading dimensions."""
        offset = self.offset
        for shift, stride in zip(by, self.strides, strict=False):
            offset = dim_add(offset, dim_mul(shift, stride))
        return Access(self.base, self.shape, self.strides, offset)

    def broadcast(self, shape: Shape) -> Access:
        """This access repeated along dimensions of size 1, by strides of 0."""
        pad = len(shape) - len(self.shape)
        sizes, strides = (1,) * pad + self.shape, (0,) * pad + self.strides
        kept = tuple(0 if size == 1 and want != 1 else step
                     for size, want, step in zip(sizes, shape, strides, strict=True))  # fmt: skip
        return Access(self.base, shape, kept, self.offset)

    def rows(self) -> Dim | None:
        """Stride between consecutive rows where the leading dimensions act as one, else None."""
        sizes = [(d, s) for d, s in zip(self.shape[:-1], self.strides[:-1], strict=True) if d != 1]
        if not sizes:
            return 0
        for (_, outer), (size, inner) in zip(sizes, sizes[1:], strict=False):
            if outer != dim_mul(size, inner):
                return None
        return sizes[-1][1]


def _reshaped(shape: Shape, strides: Sequence[Dim], to: Shape) -> tuple[Dim, ...] | None:
    """Strides of the same elements under another shape, or None where a copy is needed."""
    source = [(d, s) for d, s in zip(shape, strides, strict=True) if d != 1]
    out: list[Dim] = []
    for size in reversed(to):
        if size == 1:
            out.append(0)
            continue
        if not source:
            return None
        have, step = source.pop()
        while dim_div(have, size) is None:  # the new dimension spans several old ones
            if not source or source[-1][1] != dim_mul(step, have):
                return None
            have = dim_mul(have, source.pop()[0])
        rest = dim_div(have, size)
        out.append(step)
        if rest is not None and rest != 1:
            source.append((rest, dim_mul(step, size)))
    return tuple(reversed(out)) if not source else None


def stored_as(views: Sequence[Node], shapes: Sequence[Shape]) -> tuple[Dim, ...] | None:
    """Strides at which the input of a chain of views lies in the chain's contiguous output.

    `shapes[i]` is the shape that `views[i]` reads, and `shapes[-1]` that of the output.
    None where a view drops or repeats elements.
    """
    strides: tuple[Dim, ...] | None = contiguous(shapes[-1])
    for n, inner, outer in zip(reversed(views), shapes[-2::-1], shapes[:0:-1], strict=True):
        assert strides is not None
        if n.op == "transpose":
            placed: list[Dim] = [0] * len(inner)
            for position, p in enumerate(n.attribute("perm")):
                placed[p] = strides[position]
            strides = tuple(placed)
        elif n.op == "reshape":
            strides = _reshaped(outer, strides, inner)
        else:
            return None
        if strides is None:
            return None
    return strides


def producers(nodes: Iterable[Node]) -> dict[str, Node]:
    """The node that makes each value."""
    return {n.output: n for n in nodes}


def resolve(graph: Graph, made: Mapping[str, Node], name: str) -> Access | None:
    """How `name` is read from outside of the nodes that `made` names by what they make; None if one
    of these computes on the way, or if strides cannot say it."""
    chain: list[Node] = []
    while name in made:
        n = made[name]
        if not OPS[n.op].view:
            return None
        chain.append(n)
        name = n.inputs[0]
    access: Access | None = Access.of(name, graph.shape(name))
    for n in reversed(chain):
        if access is None:
            return None
        access = access.through(n, graph.shape(n.output))
    return access
