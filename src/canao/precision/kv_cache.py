"""What decoders keep of earlier tokens, their keys and values, in fewer bytes.

fp16: half of the memory; numbers are rounded half to even, and those beyond 65504 become that.
int8: a quarter, and a float32 scale for each token and head of keys, and of values. Attention
multiplies by them in float32. New tokens' keys and values are read from the cache as well, so that
a text in pieces gives what it gives at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from canao.defaults import PRECISION
from canao.errors import InputError
from canao.graph.dtypes import F16, F32, I8, DType
from canao.graph.ir import Graph, Node

_TABLE: Mapping[str, DType] = {PRECISION: F32, "fp16": F16, "int8": I8}
KV_CACHES = tuple(_TABLE)


def check_kv_cache(name: str) -> None:
    """InputError if keys and values cannot be kept in what is called `name`."""
    if name not in _TABLE:
        raise InputError(f"--kv-cache '{name}' is not one of {', '.join(KV_CACHES)}")


def with_kv_cache(graph: Graph, name: str) -> Graph:
    """The graph with its keys and values kept as `name` says.

    InputError if there is no such cache, or it is not of float32 and the graph keeps none.
    """
    check_kv_cache(name)
    if name == PRECISION:
        return graph
    if not any(n.op == "causal_attention" for n in graph.nodes):
        raise InputError(
            f"--kv-cache {name}: this model keeps no keys and values, as it has no causal "
            "attention; leave --kv-cache out"
        )
    return graph.replace(nodes=tuple(_kept(n, _TABLE[name]) for n in graph.nodes))


def _kept(n: Node, dtype: DType) -> Node:
    if n.op != "causal_attention":
        return n
    attributes = dict(n.attributes) | {"cache": dtype}
    return replace(n, attributes=tuple(sorted(attributes.items())))
