"""Rules of ONNX's attention and rotary positions, taken apart, so that fusion decides what to join.

Heads are a dimension of their own: [batch, heads, tokens, columns].
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from canao.graph.dtypes import BOOL, F32
from canao.graph.from_onnx import parts, views
from canao.graph.from_onnx.values import Known, Value, known, number
from canao.graph.ir import Dim, Shape, product

if TYPE_CHECKING:
    from canao.graph.from_onnx.builder import Builder


def _attention(b: Builder, q: Value, k: Value, v: Value, mask: Value | None = None,
               *past: Value | None, scale: float | None = None, q_num_heads: int = 0,
               kv_num_heads: int = 0, is_causal: int = 0, softcap: float = 0.0,
               ) -> Value:  # fmt: skip
    """softmax(cap(q k^T * scale) + mask) v; keys and values may have fewer heads than queries."""
    if any(p is not None for p in past):
        raise b.unsupported("attention that keeps keys and values")
    flat = len(b.shape(q)) == 3
    if flat:
        q = _heads(b, q, q_num_heads)
        k, v = (_heads(b, x, kv_num_heads) for x in (k, v))
    q, k, v, groups = _grouped(b, q, k, v)
    lead = b.shape(q)[:-2]
    mask = mask if mask is None else _mask_of(b, mask, groups)
    if lead[0] != 1:  # kernels know of one dimension of heads
        q, k, v = (_folded(b, x, lead, b.shape(x)[-2:]) for x in (q, k, v))
        pairs = (b.shape(q)[-2], b.shape(k)[-2])
        mask = _folded(b, mask, lead, pairs) if mask is not None else None
    factor = 1 / math.sqrt(int(b.shape(q)[-1])) if scale is None else scale  # type: ignore[arg-type]
    rank = len(b.shape(k))
    turned = views.transpose(b, k, perm=[*range(rank - 2), rank - 1, rank - 2])
    scores: Value = b.emit("matmul", b.name(q), b.name(turned))
    scores = b.pointwise("mul", scores, number(factor))
    if softcap > 0:
        scores = b.pointwise("tanh", b.pointwise("mul", scores, number(1 / softcap)))
        scores = b.pointwise("mul", scores, number(softcap))
    earlier = _earlier(b, *b.shape(scores)[-2:]) if is_causal else None
    if earlier is not None and mask is not None and b.dtype(mask) == BOOL:
        mask, earlier = b.pointwise("logical_and", mask, earlier), None
    scores = _masked(b, _masked(b, scores, mask), earlier)
    out = b.emit("matmul", b.emit("softmax", b.name(scores)), b.name(v))
    heads = lead if groups == 1 else (lead[0], product(lead[1:]))
    out = b.reshape(out, (*heads, *b.shape(out)[-2:]))
    return _joined(b, out) if flat else out


def _grouped(b: Builder, q: Value, k: Value, v: Value) -> tuple[Value, Value, Value, int]:
    """Queries in groups that share a head of keys: a dimension more, where there are such."""
    heads, few = b.shape(q)[1], b.shape(k)[1]
    if heads == few:
        return q, k, v, 1
    if not isinstance(heads, int) or not isinstance(few, int) or not few or heads % few:
        raise b.unsupported(f"attention of {heads} heads of queries to {few} of keys")
    batch, _, queries, width = b.shape(q)
    grouped = views.as_shape(b, q, (batch, few, heads // few, queries, width))
    k, v = (views.as_shape(b, x, (*b.shape(x)[:2], 1, *b.shape(x)[2:])) for x in (k, v))
    return grouped, k, v, heads // few


def _folded(b: Builder, x: Value, lead: Shape, last: Shape) -> Value:
    """x with all dimensions but the last two as one."""
    return views.as_shape(b, b.spread(x, (*lead, *last)), (product(lead), *last))


def _mask_of(b: Builder, mask: Value, groups: int) -> Value:
    shape = b.shape(mask)
    if groups == 1 or len(shape) < 3:
        return mask
    if shape[-3] == 1:
        return views.as_shape(b, mask, (*shape[:-2], 1, *shape[-2:]))
    few = int(shape[-3]) // groups  # type: ignore[arg-type]
    return views.as_shape(b, mask, (*shape[:-3], few, groups, *shape[-2:]))


def _masked(b: Builder, scores: Value, mask: Value | None) -> Value:
    if mask is None:
        return scores
    if b.dtype(mask) != BOOL:
        return b.pointwise("add", scores, mask)
    if isinstance(mask, Known) and mask.uniform and mask.item():
        return scores
    if isinstance(mask, Known):
        if not mask.array.any(-1).all():
            raise b.unsupported("a query that sees no key")
        mask = Known(np.where(mask.array, 0, -np.inf).astype(np.float32), mask.shape, F32)
        return b.pointwise("add", scores, mask)
    return b.pointwise("where", mask, scores, number(-math.inf))


def _earlier(b: Builder, queries: Dim, keys: Dim) -> Value:
    """True where key <= query, [queries, keys]."""
    if isinstance(queries, int) and isinstance(keys, int):
        return known(np.tri(queries, keys, dtype=np.bool_))
    query = b.emit("reshape", b.emit("arange", stop=queries), shape=(queries, 1))
    return b.emit("le", b.emit("arange", stop=keys), query)


def _heads(b: Builder, x: Value, count: int) -> Value:
    """[batch, tokens, width] -> [batch, heads, tokens, columns]"""
    batch, tokens, width = b.shape(x)
    if not count or not isinstance(width, int) or width % count:
        raise b.unsupported(f"{width} columns in {count} heads")
    split = b.reshape(b.name(x), (batch, tokens, count, width // count))
    return b.emit("transpose", split, perm=(0, 2, 1, 3))


def _joined(b: Builder, x: str) -> Value:
    """[batch, heads, tokens, columns] -> [batch, tokens, width]"""
    turned = b.emit("transpose", x, perm=(0, 2, 1, 3))
    shape = b.shape(turned)
    return b.reshape(turned, (*shape[:2], product(shape[2:])))


def _rotary(b: Builder, x: Value, cos: Value, sin: Value, ids: Value | None = None,
            interleaved: int = 0, num_heads: int = 0,
            rotary_embedding_dim: int = 0) -> Value:  # fmt: skip
    """Pairs of columns turned by the angles of their token: halves of a row, or neighbours."""
    flat = len(b.shape(x)) == 3
    if flat:
        x = _heads(b, x, num_heads)
    batch, heads, tokens, width = b.shape(x)
    if not isinstance(width, int):
        raise b.unsupported("a rotation of rows that grow with the text")
    size = rotary_embedding_dim or width
    if ids is not None:
        cos, sin = (parts.gather(b, table, ids) for table in (cos, sin))
    cos, sin = (views.as_shape(b, t, (*b.shape(t)[:1], 1, *b.shape(t)[1:])) for t in (cos, sin))
    turned = parts.part(b, x, 3, 0, size)
    if interleaved:
        pairs = views.as_shape(b, turned, (batch, heads, tokens, size // 2, 2))
        halves = [views.as_shape(b, parts.part(b, pairs, 4, i, 1),
                                 (batch, heads, tokens, size // 2)) for i in (0, 1)]  # fmt: skip
        one, other = _turned(b, halves, cos, sin)
        column = (batch, heads, tokens, size // 2, 1)
        both = [views.as_shape(b, h, column) for h in (one, other)]
        out = views.as_shape(b, parts.concat(b, *both, axis=4), (batch, heads, tokens, size))
    else:
        # As models write it, which fusion knows.
        left, right = (parts.part(b, turned, 3, i * size // 2, size // 2) for i in (0, 1))
        swapped = parts.concat(b, b.pointwise("neg", right), left, axis=3)
        cos, sin = (parts.concat(b, t, t, axis=3) for t in (cos, sin))
        out = b.pointwise("add", b.pointwise("mul", turned, cos), b.pointwise("mul", swapped, sin))
    out = parts.concat(b, out, parts.part(b, x, 3, size, width - size), axis=3)
    return _joined(b, b.name(out)) if flat else out


def _turned(b: Builder, halves: list[Value], cos: Value, sin: Value) -> tuple[Value, Value]:
    x, y = halves
    real = b.pointwise("sub", b.pointwise("mul", x, cos), b.pointwise("mul", y, sin))
    return real, b.pointwise("add", b.pointwise("mul", x, sin), b.pointwise("mul", y, cos))


RULES: dict[str, views.OnnxRule] = {"Attention": _attention, "RotaryEmbedding": _rotary}
