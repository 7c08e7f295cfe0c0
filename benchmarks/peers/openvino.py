"""Worker for OpenVINO. Option 'streams': throughput mode, `threads` streams, asynchronous; 'bf16':
bfloat16 where a model does not say int8."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino

from peers.protocol import Job, serve


class OpenVinoEngine:
    """A compiled model on the CPU device; what no model or option says, is in float32."""

    hint, streams = "LATENCY", 1

    def __init__(self, job: Job) -> None:
        core = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": self.hint,
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": job.threads,
            # Without it bfloat16 is taken where the CPU has it.
            "INFERENCE_PRECISION_HINT": "bf16" if "bf16" in job.options else "f32",
        }
        # Its own format is two files, in a directory.
        path = Path(job.model) / "model.xml" if Path(job.model).is_dir() else Path(job.model)
        self.model = core.compile_model(core.read_model(path), "CPU", settings)
        self.request = self.model.create_infer_request()

    def prepare(self, ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        return {"input_ids": ids, "attention_mask": mask}

    def run(self, prepared: dict[str, np.ndarray]) -> np.ndarray:
        return self.request.infer(prepared, share_inputs=True)[0]


class OpenVinoStreams(OpenVinoEngine):
    """The same for throughput: a stream for every thread, requests one behind the other."""

    hint = "THROUGHPUT"

    def __init__(self, job: Job) -> None:
        self.streams = job.threads
        super().__init__(job)
        self.queue = openvino.AsyncInferQueue(self.model, 2 * job.threads)

    def stream(self, prepared: Sequence[dict[str, np.ndarray]]) -> None:
        for text in prepared:
            self.queue.start_async(text, share_inputs=True)
        self.queue.wait_all()


def load(job: Job) -> OpenVinoEngine:
    return OpenVinoStreams(job) if "streams" in job.options else OpenVinoEngine(job)


if __name__ == "__main__":
    serve(load, lambda: {"openvino": openvino.__version__, "nncf": version("nncf")})
