"""Operators that are not imported: what to do about each, and what the walk goes on with.

One error is to name all of them, so the import goes on after the first with a value of the type
that the operator would have given, as ONNX infers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canao.graph.dtypes import F32
from canao.graph.from_onnx.builder import Builder
from canao.graph.from_onnx.elements import ELEMENTS, NARROW, declared
from canao.graph.from_onnx.load import require_onnx
from canao.graph.from_onnx.quantized import Levels
from canao.graph.from_onnx.values import Known
from canao.graph.ir import Dim, Poly, Shape, Type

_CONTROL = ("If", "Loop", "Scan", "SequenceMap")
_SMALL = 64  # elements of an operand that may say a shape


def remedy(n: Any) -> str:
    """What to do about a node whose operator has no rule."""
    if n.domain == "com.microsoft" and n.op_type.startswith(("QLinear", "QGemm", "QAttention")):
        return "quantise with QuantizeLinear and DequantizeLinear (quant_format=QuantFormat.QDQ)"
    if n.domain.startswith(("com.microsoft", "com.ms.")):
        return (
            f"{n.domain} is a fusion of ONNX Runtime: export without optimisation, or give the "
            "original model"
        )
    if n.domain not in ("", "ai.onnx"):
        return "export the model with operators of ONNX itself, or give the original model"
    if n.op_type in _CONTROL:
        return "control flow: export a model whose steps do not depend on its input"
    if n.op_type.endswith("Integer") or n.op_type.startswith("QLinear"):
        return "a quantised convolution: give the model as it was before"
    return "CANAO compiles encoders of the BERT family (see the list in docs/onnx.md)"


def stand_ins(b: Builder, n: Any, operands: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the types of a node's results; none where a type cannot be told."""
    onnx = require_onnx()
    sizes: dict[str, Dim] = {}
    types = {k: _type_proto(onnx, b, x, sizes) for k, x in operands.items() if x is not None}
    data = {k: _data(onnx, x) for k, x in operands.items()
            if isinstance(x, Known) and x.array.dtype != object and x.array.size <= _SMALL
            and not any(isinstance(d, Poly) for d in x.shape)}  # fmt: skip
    try:
        schema = onnx.defs.get_schema(n.op_type, b.opset, n.domain)
        versions = [onnx.helper.make_opsetid("", b.opset)]
        found = onnx.shape_inference.infer_node_outputs(
            schema, n, types, {k: v for k, v in data.items() if v is not None}, None, versions
        )
    except (
        onnx.defs.SchemaError, onnx.shape_inference.InferenceError,
        onnx.checker.ValidationError, RuntimeError, ValueError, TypeError,
    ):  # fmt: skip
        return {}
    made: dict[str, Any] = {}
    for name, proto in found.items():
        kind = _type(proto, sizes)
        if kind is None:
            continue
        stand_in = made[name] = f"refused{len(b.types)}"
        raw = ELEMENTS[proto.tensor_type.elem_type].held
        if raw in NARROW:
            kind = Type(F32, kind.shape)
            made[name] = Levels(stand_in, kind.shape, raw)
        b.types[stand_in] = kind
    return made


def _type_proto(onnx: Any, b: Builder, x: Any, sizes: dict[str, Dim]) -> Any:
    dims: list[int | str] = []
    for d in b.shape(x):
        dims.append(str(d) if isinstance(d, Poly) else d)
        sizes[str(d)] = d
    raw = x.kind if isinstance(x, Levels) else x.array.dtype if isinstance(x, Known) else None
    kind = next((e.onnx for e in ELEMENTS.values() if e.held == raw and raw in NARROW), None)
    return onnx.helper.make_tensor_type_proto(kind or declared(b.dtype(x)), dims)


def _data(onnx: Any, x: Known) -> Any:
    full = x.full()
    return onnx.numpy_helper.from_array(full.copy()) if full.size <= _SMALL else None


def _type(proto: Any, sizes: Mapping[str, Dim]) -> Type | None:
    tensor = proto.tensor_type
    if not tensor.HasField("shape") or tensor.elem_type not in ELEMENTS:
        return None
    shape: list[Dim] = []
    for d in tensor.shape.dim:
        if d.HasField("dim_value"):
            shape.append(d.dim_value)
        elif d.dim_param in sizes:
            shape.append(sizes[d.dim_param])
        else:
            return None
    checked: Shape = tuple(shape)
    return Type(ELEMENTS[tensor.elem_type].dtype, checked)
