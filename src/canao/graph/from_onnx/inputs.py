"""What the inputs of an ONNX graph stand for: token ids and types, ones, positions, tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from canao.errors import UnsupportedError
from canao.graph.dtypes import F32, I32
from canao.graph.from_onnx.builder import Builder
from canao.graph.from_onnx.elements import ELEMENTS, INT64, NARROW
from canao.graph.from_onnx.load import Model
from canao.graph.from_onnx.quantized import Levels
from canao.graph.from_onnx.values import Ramp, Value, fill, known
from canao.graph.ir import TOKENS, Ids, Shape, Tensor, Type

# Names that exporters and Hugging Face give to the inputs of a text encoder.
IDS = ("input_ids", "input", "ids", "tokens", "token_ids", "input.1")
TYPES = ("token_type_ids", "segment_ids", "token_types")
MASKS = ("attention_mask", "input_mask", "mask", "attention_masks")
POSITIONS = ("position_ids", "positions")
# Inputs that other kinds of model have, and what to do about each, by how their names begin.
_OTHERS = (
    ("past_key_values", "holds keys and values of earlier tokens; export without a cache "
     "(use_cache=False), CANAO keeps one of its own"),
    ("use_cache", "is for a model with a cache; export without one"),
    ("cache_position", "is for a model with a cache; export without one"),
    ("decoder_", "belongs to a decoder that reads an encoder; export the encoder alone"),
    ("encoder_", "belongs to a decoder that reads an encoder; export the encoder alone"),
    ("pixel_values", "takes images; CANAO compiles models of texts"),
    ("input_features", "takes sound; CANAO compiles models of texts"),
    ("inputs_embeds", "takes vectors in place of tokens; export the model with input_ids"),
)
_INTS = (I32.onnx, INT64)
# ONNX's numbers of whole numbers that a library takes as floats, as they are in NumPy.
WHOLE = {number: e.held for number, e in ELEMENTS.items() if e.held in NARROW}
_Dims = list[int | None]


def bind_inputs(
    b: Builder, model: Model, given: Mapping[str, np.ndarray] | None
) -> dict[str, Value | Levels]:
    """The value of each input that the file holds no value for.

    Without `given` they are those of a text encoder; else tensors of fixed shapes, of floats or of
    quantised whole numbers held in floats, and, for the others, what is given. UnsupportedError
    for any other input.
    """
    slots = [i for i in model.graph.input if i.name not in model.tensors]
    values: dict[str, Value | Levels] = {}
    for slot in slots:
        if not slot.type.HasField("tensor_type"):
            raise UnsupportedError(f"input '{slot.name}' is no tensor; export without it")
        tensor = slot.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        if given is None:
            values[slot.name] = _text_input(b, slot.name, tensor.elem_type, dims, slots)
        elif slot.name in given:
            values[slot.name] = known(given[slot.name])
        else:
            values[slot.name] = _tensor_input(b, slot.name, tensor.elem_type, dims)
    if given is None and not b.inputs:
        raise UnsupportedError(
            f"none of its inputs ({', '.join(i.name for i in slots) or 'it has none'}) holds "
            "token ids; give a text encoder with an input input_ids"
        )
    return values


def _text_input(b: Builder, name: str, kind: int, dims: _Dims, slots: Sequence[Any]) -> Value:
    why = next((why for start, why in _OTHERS if name.startswith(start)), None)
    if why is not None:
        raise UnsupportedError(f"input '{name}' {why}")
    if kind not in _INTS or len(dims) != 2:
        raise UnsupportedError(
            f"input '{name}' is not whole numbers of shape [batch, tokens]; give a text "
            "encoder whose inputs are input_ids, attention_mask and token_type_ids"
        )
    if dims[0] not in (None, 1):
        raise UnsupportedError(
            f"input '{name}' has a batch of {dims[0]}; export with a batch of 1, or a dynamic one"
        )
    if dims[1] is not None:
        raise UnsupportedError(
            f"input '{name}' has the fixed length {dims[1]}; export with a dynamic number of "
            "tokens (dynamic_axes or dynamic_shapes)"
        )
    shape: Shape = (1, TOKENS)
    if name in MASKS:
        return fill(1, shape, I32)
    if name in POSITIONS:
        return Ramp(shape, 1, 0, 1)
    if name in TYPES:
        plain = "token_type_ids"
    elif name in IDS or len(slots) == 1:
        plain = "input_ids"
    else:
        raise UnsupportedError(
            f"input '{name}' is not known; name inputs input_ids, attention_mask, "
            "token_type_ids or position_ids"
        )
    if any(i.name == plain for i in b.inputs):
        raise UnsupportedError(f"input '{name}' is a second {plain}; give a model with one")
    return b.input(plain, Type(I32, shape), Ids())


def _tensor_input(b: Builder, name: str, kind: int, dims: _Dims) -> Value | Levels:
    if kind not in (F32.onnx, *WHOLE) or any(not d for d in dims):
        raise UnsupportedError(
            f"input '{name}' is not float32, or whole numbers of 8 or 16 bits, of a fixed shape; "
            "give a model of such inputs"
        )
    shape = tuple(d or 0 for d in dims)
    slot = b.input(f"input_{len(b.inputs)}", Type(F32, shape), Tensor())
    return slot if kind == F32.onnx else Levels(slot, shape, WHOLE[kind])
