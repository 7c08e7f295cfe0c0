"""A peer's inferences in a program of their own, whose instructions are counted.

    python -m peers.arm_worker ENGINE MODEL TEXTS COUNT OUT

Runs an inference COUNT times, of the text that is measured everywhere at that length; the last
output goes to OUT (.npy). Needs NumPy and the engine, nothing else.
"""

from __future__ import annotations

import sys
from importlib import import_module

import numpy as np

from peers.protocol import Engine, Job

ENGINES = {"litert": "LiteRtEngine", "ort": "OrtEngine"}


def main() -> None:
    engine, model, texts, count, out = sys.argv[1:]
    job = Job(model=model, texts=texts, threads=1, cores=())
    loaded: Engine = getattr(import_module(f"peers.{engine}"), ENGINES[engine])(job)
    with np.load(texts) as held:
        ids = held["ids"][None].astype(np.int64)
    prepared = loaded.prepare(ids, np.ones_like(ids))
    for _ in range(int(count)):
        result = loaded.run(prepared)
    np.save(out, np.asarray(result, np.float32).reshape(ids.size, -1))


if __name__ == "__main__":
    main()
