"""Attention as one form, softmax(scores) v, and what a model may do to the scores first.

    scores = q k^T * scale + biases, over a sliding window of keys around each query

A bias has an element for each (head, query, key). It is a constant, such as a relative bias, or it
is taken from computed scores of relative positions by the distance between query and key. A bias
that is 0 up to some distance and -inf beyond it is a sliding window: keys outside are not visited.
Where the window is the whole past, causal.py has already replaced attention by one op,
`causal_attention`, which keeps keys and values in a cache for the tokens that follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from canao.fuse.access import Access, producers, resolve, stored_as
from canao.graph.dtypes import F32, DType
from canao.graph.ir import TOKENS, Dim, Graph, Node, Shape, product
from canao.graph.ops import OPS

# A model's -inf: adding it leaves nothing of a score.
MASKED = -1e30


@dataclass(frozen=True, slots=True)
class AttentionBias:
    """What is added to the score of each (head, query, key).

    read      where its element lies; with `indices`, where the row lies that it is taken from
    indices   the number of the element in that row, for take_along_axis; None: `read` says it all
    step      the stride between elements of that row
    """

    read: Access
    indices: Access | None = None
    step: Dim = 1


@dataclass(frozen=True, slots=True)
class Attention:
    """softmax(q k^T * scale + biases) v.

    q, k, v   [batch..., m, d], [batch..., d, keys] and [batch..., keys, dv]
    store     strides of the result [batch..., m, dv] in the output
    window    how many keys before and after its own position a query sees; None: all
    rounded   what is multiplied is rounded to this type first
    cache     keys and values are appended to a cache of this type, which holds those of earlier
              tokens; a query then sees none that come after it. None: there is no cache
    """

    q: Access
    k: Access
    v: Access
    scale: float
    store: tuple[Dim, ...]
    biases: tuple[AttentionBias, ...] = ()
    window: tuple[int, int] | None = None
    cache: DType | None = None
    rounded: DType = F32

    @property
    def cached(self) -> bool:
        return self.cache is not None


class ScorePaths:
    """Which values of some nodes, given in execution order, are scores of attention: a product
    q k^T, or what mul, add or reshape makes of exactly one operand that is. `name in paths` tells.

    One pass over the nodes finds all, however their values fan out and meet again.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._made: dict[str, Node] = {}
        self._before: dict[str, str | None] = {}  # scores -> those that they are made of
        for n in nodes:
            self._made[n.output] = n
            if n.op == "matmul":
                self._before[n.output] = None
            elif n.op in ("mul", "add", "reshape"):
                scores = [i for i in n.inputs if i in self._before]
                if len(scores) == 1:
                    self._before[n.output] = scores[0]

    def __contains__(self, name: str) -> bool:
        return name in self._before

    def chain(self, name: str) -> tuple[Node, list[Node]] | None:
        """The matmul q k^T that the scores `name` are computed from, and the nodes in between:
        scales, reshapes and biases, with the views and takes that biases are read by. None if
        `name` is no scores."""
        if name not in self._before:
            return None
        steps: list[Node] = []
        while (before := self._before[name]) is not None:
            others = [i for i in self._made[name].inputs if i != before]
            steps.append(self._made[name])
            for i in reversed(others):
                steps += self._bias(i)
            name = before
        return self._made[name], steps[::-1]

    def _bias(self, name: str) -> list[Node]:
        """The views and takes that a bias is read by, the last first."""
        found: list[Node] = []
        n = self._made.get(name)
        while n is not None and (OPS[n.op].view or n.op == "take_along_axis"):
            found.append(n)
            n = self._made.get(n.inputs[-1])  # of a take, its indices
        return found


def attention_form(graph: Graph, nodes: Sequence[Node], output: str) -> Attention | None:
    """The Attention form of exactly these nodes."""
    made = producers(nodes)
    softmax = next((n for n in nodes if n.op == "softmax"), None)
    mix, views = _mixed(made, output)
    if softmax is None or mix is None or _bare(graph, made, mix.inputs[0]) != softmax.output:
        return None
    parsed = _scores(graph, nodes, made, softmax.inputs[0])
    if parsed is None:
        return None
    scores, scale, biases = parsed
    q, k, v = (resolve(graph, made, x) for x in (*scores.inputs, mix.inputs[1]))
    if q is None or k is None or v is None:
        return None
    kept, window = _windowed(graph, biases)
    rounded, other = (dict(n.attributes).get("rounded", F32) for n in (scores, mix))
    if rounded != other:
        return None
    form = Attention(q, k, v, scale, (), kept, window, rounded=rounded)
    return _stored(graph, mix, views, form)


def causal_form(graph: Graph, nodes: Sequence[Node], output: str) -> Attention | None:
    """The Attention form of one `causal_attention` and views."""
    made = producers(nodes)
    mix, views = _mixed(made, output)
    if mix is None or sum(not OPS[n.op].view for n in nodes) > 1:
        return None
    q, k, v = (resolve(graph, made, x) for x in mix.inputs)
    if q is None or k is None or v is None:
        return None
    rank, window = len(k.shape), (graph.max_length - 1, 0)
    turned = k.transposed((*range(rank - 2), rank - 1, rank - 2))
    cache = dict(mix.attributes).get("cache", F32)
    form = Attention(q, turned, v, mix.attribute("scale"), (), window=window, cache=cache)
    return _stored(graph, mix, views, form)


def _stored(
    graph: Graph, mix: Node, views: Sequence[Node], form: Attention
) -> Attention | None:
    """The form with its `store`; None where no strides say how its result lies in the output."""
    q, k, v = form.q, form.k, form.v
    if not isinstance(q.shape[-1], int) or not isinstance(v.shape[-1], int):
        return None
    if any(x.shape[:-2] != q.shape[:-2] for x in (k, v)):
        return None
    store = stored_as(views, [graph.shape(mix.output), *(graph.shape(n.output) for n in views)])
    return None if store is None else replace(form, store=store)


def _mixed(made: Mapping[str, Node], output: str) -> tuple[Node | None, list[Node]]:
    """The node that computes softmax(...) v, or None, and the views on its result."""
    views: list[Node] = []
    while output in made and OPS[made[output].op].view:
        views.insert(0, made[output])
        output = made[output].inputs[0]
    n = made.get(output)
    mixes = n is not None and n.op in ("matmul", "causal_attention")
    return (n if mixes else None), views


def _bare(graph: Graph, made: Mapping[str, Node], name: str) -> str:
    """`name` without the reshapes that only add or drop batch dimensions of 1."""
    while name in made and made[name].op == "reshape":
        before, after = graph.shape(made[name].inputs[0]), graph.shape(name)
        if before[-2:] != after[-2:] or product(before) != product(after):
            break
        name = made[name].inputs[0]
    return name


def _scores(
    graph: Graph, nodes: Sequence[Node], made: Mapping[str, Node], name: str
) -> tuple[Node, float, list[AttentionBias]] | None:
    """The matmul q k^T that `name` is computed from, its scale and the biases added to it."""
    scale, biases, paths = 1.0, list[AttentionBias](), ScorePaths(nodes)
    while True:
        name = _bare(graph, made, name)
        n = made.get(name)
        if n is None or n.op == "matmul":
            return None if n is None else (n, scale, biases)
        found = [i for i in n.inputs if i in paths]
        if n.op not in ("add", "mul") or len(found) != 1 or n.inputs[0] == n.inputs[1]:
            return None
        other = n.inputs[1] if n.inputs[0] == found[0] else n.inputs[0]
        if n.op == "mul":
            array = graph.constants.get(other)
            if array is None or array.size != 1:
                return None
            scale *= float(array.reshape(()))
        else:
            bias = _bias(graph, made, other, graph.shape(name))
            if bias is None or scale != 1.0:
                return None
            biases.append(bias)
        name = found[0]


def _bias(
    graph: Graph, made: Mapping[str, Node], name: str, shape: Shape
) -> AttentionBias | None:
    views: list[Node] = []
    inner = name
    while inner in made and OPS[made[inner].op].view:
        views.insert(0, made[inner])
        inner = made[inner].inputs[0]
    n = made.get(inner)
    if n is None:
        access = resolve(graph, made, name)
        return None if access is None else AttentionBias(access.broadcast(shape))
    if n.op != "take_along_axis":
        return None
    taken = graph.shape(n.output)
    source, indices = (resolve(graph, made, i) for i in n.inputs)
    if source is None or indices is None:
        return None
    step = source.strides[-1]
    reads: list[Access | None] = [
        Access(source.base, taken, (*source.strides[:-1], 0), source.offset),
        indices.broadcast(taken),
    ]
    for view in views:
        reads = [a and a.through(view, graph.shape(view.output)) for a in reads]
    if reads[0] is None or reads[1] is None:
        return None
    return AttentionBias(reads[0].broadcast(shape), reads[1].broadcast(shape), step)


def _windowed(
    graph: Graph, biases: Sequence[AttentionBias]
) -> tuple[tuple[AttentionBias, ...], tuple[int, int] | None]:
    """The biases that are no sliding windows, and the window that the others make together."""
    kept, windows = [], []
    for bias in biases:
        window = None if bias.indices is not None else window_of(graph, bias.read)
        kept += [bias] if window is None else []
        windows += [] if window is None else [window]
    if not windows:
        return tuple(kept), None
    return tuple(kept), (min(b for b, _ in windows), min(a for _, a in windows))


def window_of(graph: Graph, read: Access) -> tuple[int, int] | None:
    """How many keys before and after its own a query sees, if what is read at (query, key) is 0
    for these and -inf for all others; else None."""
    array, longest = graph.constants.get(read.base), graph.max_length
    lead, (row, column) = zip(read.shape, read.strides, strict=True), read.strides[-2:]
    if array is None or array.dtype != np.float32 or not isinstance(read.offset, int):
        return None
    if read.shape[-2:] != (TOKENS, TOKENS):
        return None
    if any(step != 0 and size != 1 for size, step in list(lead)[:-2]):
        return None
    if not isinstance(row, int) or not isinstance(column, int):
        return None
    flat = array.reshape(-1)
    if row == -column:  # a table of distances
        corners = [read.offset + d * column for d in (1 - longest, longest - 1)]
        if min(corners) < 0 or max(corners) >= flat.size:
            return None
        return _run(flat[read.offset + column * np.arange(1 - longest, longest)])
    corners = [read.offset + i * row + j * column for i in (0, longest - 1)
               for j in (0, longest - 1)]  # fmt: skip
    if min(corners) < 0 or max(corners) >= flat.size:
        return None
    steps = (flat.itemsize * row, flat.itemsize * column)
    values = np.lib.stride_tricks.as_strided(
        flat[read.offset :], (longest, longest), steps, writeable=False
    )
    # Along the first column and the first row lie all distances.
    by_distance = np.concatenate([values[:0:-1, 0], values[0]])
    window = _run(by_distance)
    return window if window is not None and _alike(values, by_distance) else None


def _alike(values: np.ndarray, by_distance: np.ndarray) -> bool:
    """Whether element (i, j) shows and hides what the distance j - i does. A few rows are looked at
    at a time: all together may be more than memory holds."""
    longest = len(values)
    seen = by_distance > MASKED
    for i, row in enumerate(values):
        expected = seen[longest - 1 - i : 2 * longest - 1 - i]
        if not np.array_equal(row > MASKED, expected) or row[expected].any():
            return False
    return True


def _run(values: np.ndarray) -> tuple[int, int] | None:
    """The window of values by distance, from 1 - n to n - 1: zeros, in one run around distance 0,
    and -inf elsewhere; else None."""
    seen, own = np.flatnonzero(values > MASKED), len(values) // 2
    if not len(seen) or values[seen].any() or seen[-1] - seen[0] + 1 != len(seen):
        return None
    if not seen[0] <= own <= seen[-1]:
        return None
    return int(own - seen[0]), int(seen[-1] - own)
