"""ONNX -> OpenVINO in static int8, calibrated by NNCF, in OpenVINO's environment.

python -m peers.quantize_openvino ONNX TEXTS DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

import nncf
import numpy as np
import openvino

from peers.protocol import padded, read_texts


def main(source: str, texts: str, out: str) -> None:
    """Quantise as NNCF's makers say for transformers, with activations as on these texts."""

    def given(ids: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(("input_ids", "attention_mask"), padded(ids, 0), strict=True))

    held = read_texts(texts)
    model = nncf.quantize(
        openvino.Core().read_model(source), nncf.Dataset(held, given), subset_size=len(held),
        model_type=nncf.ModelType.TRANSFORMER,
    )  # fmt: skip
    Path(out).mkdir(exist_ok=True)
    openvino.save_model(model, Path(out) / "model.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
