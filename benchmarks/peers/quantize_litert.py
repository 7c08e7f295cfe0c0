"""LiteRT -> LiteRT in dynamic int8, in LiteRT's environment.

python -m peers.quantize_litert TFLITE FILE
"""

from __future__ import annotations

import sys

from ai_edge_quantizer import quantizer, recipe


def main(source: str, out: str) -> None:
    """Quantise by the recipe that its makers have for this, weights per channel."""
    maker = quantizer.Quantizer(source, recipe.dynamic_wi8_afp32())
    maker.quantize().export_model(out, overwrite=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
