"""ONNX -> ONNX in ONNX Runtime's dynamic int8, in its environment.

python -m peers.quantize_ort ONNX FILE int8|uint8

The word is the type of the weights, which have a scale for each output channel; activations are
uint8 in either.
"""

from __future__ import annotations

import sys

from onnxruntime.quantization import QuantType, quantize_dynamic

_TYPES = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}


def main(source: str, out: str, kind: str) -> None:
    """Quantise what its makers quantise by default: products by constant weights, look-ups."""
    quantize_dynamic(source, out, per_channel=True, weight_type=_TYPES[kind])


if __name__ == "__main__":
    main(*sys.argv[1:])
