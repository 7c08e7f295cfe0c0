"""Layers and intermediate results before and after fusion, as DNNFusion counts them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peers.models import build_body

from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph
from canao.errors import CanaoError
from canao.fuse.forms.form import Alias
from canao.graph.ir import Graph, dim_at
from canao.target import get_target

# DNNFusion's FLOPs of BERT-base, 67.3 G, are those of texts of about this many tokens.
LENGTH = 384
# Layers that read each element of an input more than once.
INTENSIVE = frozenset(("linear", "matmul", "softmax"))
# op -> what it is in ONNX's primitive operators, of which DNNFusion's graphs are made: how many
# operators, how many results of full size, how many with one element a row. Others are one and one.
#   linear      MatMul, Add
#   layer_norm  ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div, Mul, Add
#   gelu        Div, Erf, Add, Mul, Mul
PRIMITIVE = {"linear": (2, 2, 0), "layer_norm": (9, 5, 4), "gelu": (5, 5, 0)}


def count_layers(model: str) -> dict[str, Any]:
    """Counts before and after, and megabytes of intermediate results; or `why` there are none.

    Intermediate are the results of all layers, or of all kernels, but the last.
    """
    try:
        _, graph = load_model(build_body(model, "sdpa"))
        stages = compile_graph(graph, get_target())
    except CanaoError as error:
        return {"length": LENGTH, "why": f"does not compile: {error}"}
    captured, fused = stages.captured, stages.program.graph
    ops = [node.op for node in captured.nodes]
    kernels = [r for r in stages.program.regions if not isinstance(r.form, Alias)]
    last = {value for _, value in captured.outputs}
    inner = [n for n in captured.nodes if n.output not in last]
    primitive = sum(
        full * result_bytes(captured, n.output) + narrow * row_bytes(captured, n.output)
        for n in inner for _, full, narrow in (PRIMITIVE.get(n.op, (1, 1, 0)),)
    )  # fmt: skip
    after = {value for _, value in fused.outputs}
    return {
        "length": LENGTH,
        "before": len(ops),
        "intensive": sum(op in INTENSIVE for op in ops),
        "primitive": sum(PRIMITIVE.get(op, (1,))[0] for op in ops),
        "after": len(kernels),
        "before_mb": _mb(result_bytes(captured, n.output) for n in inner),
        "primitive_mb": _mb((primitive,)),
        "after_mb": _mb(result_bytes(fused, r.output) for r in kernels if r.output not in after),
    }


def result_bytes(graph: Graph, value: str) -> int:
    """Bytes of a value at LENGTH tokens."""
    kind = graph.types[value]
    return dim_at(kind.elements, LENGTH) * kind.dtype.bytes


def row_bytes(graph: Graph, value: str) -> int:
    """Bytes of one element for each row of a value."""
    return result_bytes(graph, value) // dim_at(graph.types[value].shape[-1], LENGTH)


def _mb(sizes: Iterable[int]) -> float:
    return round(sum(sizes) / 1e6, 1)
