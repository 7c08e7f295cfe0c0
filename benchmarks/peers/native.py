"""Worker for CANAO: an artifact through CompiledModel. Option 'batch': streams by run_batch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from canao.inference.compiled_model import CompiledModel
from peers.protocol import Job, serve


class CanaoEngine:
    """A compiled model at true lengths. Inputs that a text does not give are zeros."""

    def __init__(self, job: Job) -> None:
        self.model = CompiledModel(job.model, job.threads, job.cores)
        self.names = [slot["name"] for slot in self.model.artifact.manifest["inputs"]]

    def prepare(self, ids: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
        given = {"input_ids": ids[0].astype(np.int32), "attention_mask": mask[0].astype(np.int32)}
        return [given.get(name, np.zeros_like(given["input_ids"])) for name in self.names]

    def run(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        return self.model(*prepared)


class CanaoBatches(CanaoEngine):
    """The same, streaming through run_batch."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        if not hasattr(self.model, "run_batch"):
            raise SystemExit("this CANAO has no run_batch")

    def stream(self, prepared: Sequence[Sequence[np.ndarray]]) -> None:
        self.model.run_batch(prepared)


def load(job: Job) -> CanaoEngine:
    return CanaoBatches(job) if "batch" in job.options else CanaoEngine(job)


if __name__ == "__main__":
    serve(load, lambda: {"canao": version("canao")})
