"""Worker for ONNX Runtime. Option 'nosln': without two fusions that are slower on CPUs."""

from __future__ import annotations

import numpy as np
import onnxruntime

from peers.protocol import Job, serve

_SLOW_FUSIONS = ["SkipLayerNormFusion", "MatMulAddFusion"]


class OrtEngine:
    """A session of the CPU provider, default graph optimisations."""

    def __init__(self, job: Job) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job.threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            job.model, options, providers=["CPUExecutionProvider"],
            disabled_optimizers=_SLOW_FUSIONS if "nosln" in job.options else None,
        )  # fmt: skip

    def prepare(self, ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        return {"input_ids": ids, "attention_mask": mask}

    def run(self, prepared: dict[str, np.ndarray]) -> np.ndarray:
        return self.session.run(None, prepared)[0]


if __name__ == "__main__":
    serve(OrtEngine, lambda: {"onnxruntime": onnxruntime.__version__})
