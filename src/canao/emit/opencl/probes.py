"""The probes of a program: of single values, of a product's tile, of a group, of attention."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from canao.emit.opencl.kernel import BARRIER
from canao.emit.opencl.probe import FIRST, PAST, TOKENS, Check, Probe, Probes, blanks, floats
from canao.emit.opencl.probe_values import values
from canao.emit.writer import Writer


def probes_of(vector: int, needs: frozenset[str], kernels: Iterable[str], items: int) -> Probes:
    """Those of a program with vectors of so many floats, by what its kernels need of the prelude,
    by their text, and by how many work-items the largest of its groups has."""
    used = frozenset(name for text in kernels for name in re.findall(r"\bvf_\w+(?=\()", text))
    # Few sizes, so that models share them, and none that a device may not take.
    shared = 1 << (max(2, items).bit_length() - 1)
    probes = (values(vector, needs, used), _tile(vector), _group(shared), _branches(vector))
    return Probes(probes, vector, needs)


def _tile(vector: int) -> Probe:
    """As packed_gemm.py has it: tiles of eight rows, of which the last is not full, by one panel of
    columns for each of three items; then the sums of rows, which are added to the products."""
    rows, depth, deep, panels, tile = PAST, 10, 8, 3, 8
    a = np.arange(rows * depth).reshape(rows, depth) * 5 % 7 - 3
    b = np.arange(panels * depth * vector).reshape(panels, depth, vector) * 3 % 11 - 5
    product = a @ np.concatenate(list(b), axis=1)
    right = product + product.sum(axis=1, keepdims=True)
    w = Writer()
    w.depth = 1
    w.line(f"__local float part[{tile * panels}];")
    w.line("const int lane = get_local_id(0), rows = past;")
    w.line(f"const int panel = get_group_id(0) * {panels} + lane;")
    w.line(f"const int row = get_global_id(1) * {tile};")
    w.line(f"__global const float *w = in + rows * {depth} + panel * {depth * vector};")
    for i in range(tile):
        w.line(f"__global const float *a{i} = in + min(row + {i}, rows - 1) * {depth};")
        w.line(f"vf c{i} = vf_set1(0.0f);")
    with w.block(f"for (int k = 0; k < {deep}; k += 4)"):
        for i in range(tile):
            w.line(f"const float4 x{i} = vload4(0, a{i} + k);")
        for kk in range(4):
            _tile_step(w, tile, f"(k + {kk})", f".s{kk}")
    with w.block(f"for (int k = {deep}; k < {depth}; k++)"):
        for i in range(tile):
            w.line(f"const float x{i} = a{i}[k];")
        _tile_step(w, tile, "k", "")
    w.line(BARRIER)
    for i in range(tile):
        w.line(f"part[{i * panels} + lane] = vf_sum(c{i});")
    w.line(BARRIER)
    with w.block(f"for (int m = {panels}; m > 1; m = (m + 1) / 2)"):
        w.line("const int half_way = (m + 1) / 2;")
        with w.block("if (lane + half_way < m)"):
            for i in range(tile):
                w.line(f"part[{i * panels} + lane] += part[{i * panels} + lane + half_way];")
        w.line(BARRIER)
    for i in range(tile):
        with w.block(f"if (row + {i} < rows)"):
            w.line(f"vf_store(out + (row + {i}) * {panels * vector} + panel * VF, "
                   f"vf_add(c{i}, vf_set1(part[{i * panels}])));")  # fmt: skip
    given = floats(np.concatenate([a.ravel(), b.ravel()]))
    return Probe("probe_tile", w.text(), given, (Check("tile", floats(right)),), panels,
                 (1, -(-rows // tile)))  # fmt: skip


def _tile_step(w: Writer, tile: int, k: str, element: str) -> None:
    with w.block(""):
        w.line(f"const vf y = vf_load(w + {k} * VF);")
        for i in range(tile):
            w.line(f"c{i} = vf_fma(vf_set1(x{i}{element}), y, c{i});")


def _group(items: int) -> Probe:
    """The sum of all items of a group, and the maximum of all but one; the last says what it got.
    No more: each is a loop with barriers, which compilers unroll."""
    x = -((np.arange(items) * 37 + 50) % 101) - 1
    few = max(1, items - 1)
    body = f"""\
    __local float part[{items}];
    const float x = in[get_local_id(0)];
    const float sum = group_sum(x, part, {items}), top = group_top(x, part, {few});
    if (get_local_id(0) == {items - 1}) {{
        out[0] = sum;
        out[1] = top;
    }}
"""
    right = floats([x.sum(), x[:few].max()])
    return Probe("probe_group", body, floats(x), (Check("group", right),), items)


def _branches(vector: int) -> Probe:
    """As attention.py has it: blocks of keys in the group's memory, of which each item sees others,
    and some see none; the maximum and the sum of a query's products with its keys."""
    items, keys = 8, TOKENS + PAST
    q = np.arange(TOKENS) * 5 % 9 - 4
    k = np.arange(keys) * 7 % 13 - 8
    right = blanks(2 * TOKENS).reshape(TOKENS, 2)
    for t in range(FIRST, TOKENS):
        seen = q[t] * k[: PAST + t + 1]
        right[t] = floats([seen.max(), seen.sum()])
    body = f"""\
    __local float kt[VF];
    const int lane = get_local_id(0), start = get_group_id(0) * {items}, t = start + lane;
    const int mine = t < s && t >= first, query = min(t, s - 1);
    const int last = min(start + {items}, s) - 1, idle = last < first;
    const int high = past + t + 1, to = idle ? 0 : past + last + 1, end = past + s;
    __global const float *k = in + s;
    const vf q = vf_set1(in[query]);
    float top = -INFINITY, sum = 0.0f;
    for (int key = 0; key < to; key += VF) {{
        {BARRIER}
        for (int i = lane; i < VF; i += {items})
            kt[i] = k[min(key + i, end - 1)];
        {BARRIER}
        if (mine && key < high) {{
            const vf y = vf_mul(vf_load(kt), q);
            top = fmax(top, vf_top(vf_keep(y, high - key, -INFINITY)));
            sum = sum + vf_sum(vf_keep(y, high - key, 0.0f));
        }}
    }}
    if (mine) {{
        out[2 * t] = top;
        out[2 * t + 1] = sum;
    }}
"""
    given = floats(np.concatenate([q, k]))
    return Probe("probe_branches", body, given, (Check("branches", right.ravel()),), items,
                 (-(-TOKENS // items), 1))  # fmt: skip
