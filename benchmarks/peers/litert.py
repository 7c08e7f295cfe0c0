"""Worker for LiteRT with XNNPACK, its default on CPUs."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from peers.protocol import Job, serve


class LiteRtEngine:
    """An interpreter; XNNPACK takes what it can of the graph, here all of it."""

    def __init__(self, job: Job) -> None:
        self.interpreter = Interpreter(job.model, num_threads=job.threads)
        self.interpreter.allocate_tensors()
        # Named serving_default_args_0 and _1, in any order.
        inputs = sorted(self.interpreter.get_input_details(), key=lambda d: d["name"])
        self.inputs = [(d["index"], d["dtype"]) for d in inputs]
        self.output = self.interpreter.get_output_details()[0]["index"]

    def prepare(self, ids: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
        return [a.astype(kind) for a, (_, kind) in zip((ids, mask), self.inputs)]  # noqa: B905

    def run(self, prepared: list[np.ndarray]) -> np.ndarray:
        for (index, _), array in zip(self.inputs, prepared):  # noqa: B905  two and two
            self.interpreter.set_tensor(index, array)
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.output)


if __name__ == "__main__":
    named = ("ai-edge-litert", "litert-torch", "ai-edge-quantizer")
    serve(LiteRtEngine, lambda: {name: version(name) for name in named})
