"""Worker for MNN."""

from __future__ import annotations

import MNN
import numpy as np

from peers.protocol import Job, serve


class MnnEngine:
    """A session on the CPU backend. Precision 'high' is float32."""

    def __init__(self, job: Job) -> None:
        self.interpreter = MNN.Interpreter(job.model)
        self.session = self.interpreter.createSession(
            {"backend": "CPU", "numThread": job.threads, "precision": "high"}
        )
        named = self.interpreter.getSessionInputAll(self.session)
        self.inputs = [named["input_ids"], named["attention_mask"]]
        self.output = self.interpreter.getSessionOutput(self.session)

    def prepare(self, ids: np.ndarray, mask: np.ndarray) -> list[MNN.Tensor]:
        kind, layout = MNN.Halide_Type_Int, MNN.Tensor_DimensionType_Caffe
        return [MNN.Tensor(a.shape, kind, a.astype(np.int32), layout) for a in (ids, mask)]

    def run(self, prepared: list[MNN.Tensor]) -> np.ndarray:
        for slot, tensor in zip(self.inputs, prepared):  # noqa: B905  two and two
            slot.copyFrom(tensor)
        self.interpreter.runSession(self.session)
        return self.output.getNumpyData().copy()


if __name__ == "__main__":
    serve(MnnEngine, lambda: {"MNN": MNN.version()})
