"""Models, texts and conversions on disk, each made once and renamed into place whole."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peers.catalog import HERE, OWN, Contestant
from peers.host import run_tool
from peers.protocol import write_texts

# What an engine takes -> the directory of CANAO's artifact.
_ARTIFACTS = {"artifact": "canao", "unfused": "canao-unfused"}


@dataclass(frozen=True)
class Store:
    """The folder of one model under the work directory.

    Its name holds a hash of the sources and pins that its files depend on. CANAO's artifact
    depends on all of CANAO, and is compiled anew by `compile`.
    """

    model: str
    folder: Path

    @staticmethod
    def open(work: Path, model: str) -> Store:
        """The store of a model, with its weights."""
        digest = hashlib.sha256()
        names = ("models.py", "prepare.py", "convert_litert.py", "convert_mnn.py")
        for path in (*(HERE / name for name in names), *sorted(HERE.glob("*.txt"))):
            digest.update(path.read_bytes())
        store = Store(model, work / f"{model}-{digest.hexdigest()[:8]}")
        store.folder.mkdir(parents=True, exist_ok=True)
        store._make("weights.safetensors", OWN, "prepare", ("weights", model))
        return store

    def compile(self, kind: str = "artifact") -> None:
        """CANAO's artifact, fused or 'unfused', by the sources as they are now."""
        _say(f"{self.model}: compiling with CANAO ({kind})")
        name = _ARTIFACTS[kind]
        where = (kind, self.model, str(self.folder), str(self.folder / name))
        run_tool(OWN, "prepare", where, self.folder / f"{name}.log")

    def texts(self, name: str, texts: Sequence[np.ndarray]) -> Path:
        """A file with these texts' ids."""
        path = self.folder / f"{name}.npz"
        write_texts(str(path), texts)
        return path

    def case(self, texts: Path) -> dict[str, Any]:
        """PyTorch's outputs on the texts (`hidden`), `flops`, `parameters`, `sensitivity`."""
        content = hashlib.sha256(texts.read_bytes()).hexdigest()[:8]
        path = self._make(f"case-{content}.npz", OWN, "prepare",
                          ("case", self.model, str(self.folder), str(texts)))  # fmt: skip
        with np.load(path) as held:
            return {name: held[name] if held[name].ndim else held[name].item() for name in held}

    def kernels(self, length: int) -> list[tuple[str, int, int]]:
        """(name, FLOPs, bytes) of the artifact's kernels at this length; never kept."""
        path = self.folder / "kernels.json"
        run_tool(OWN, "prepare", ("kernels", self.model, str(self.folder), str(path), str(length)),
                 self.folder / "kernels.log")  # fmt: skip
        return [tuple(row) for row in json.loads(path.read_text(encoding="utf-8"))]

    def model_file(self, contestant: Contestant) -> Path:
        """What the contestant's engine loads, converted if it is not there yet."""
        takes, length = contestant.engine.takes, contestant.length
        if takes in _ARTIFACTS:
            return self.folder / _ARTIFACTS[takes]
        if takes == "weights":
            return self.folder
        if takes == "tflite":
            return self._make(f"{length}.tflite", "litert", "convert_litert",
                              (self.model, str(self.folder)), (str(length),))  # fmt: skip
        onnx = self._make(f"{length or 'dynamic'}.onnx", OWN, "prepare",
                          ("onnx", self.model, str(self.folder)), (str(length),))  # fmt: skip
        if takes == "mnn":
            return self._make(f"{length}.mnn", "mnn", "convert_mnn", (str(onnx),))
        return onnx

    def _make(
        self, name: str, environment: str, module: str, before: Sequence[str],
        after: Sequence[str] = (),
    ) -> Path:  # fmt: skip
        path = self.folder / name
        if not path.is_file():
            _say(f"{self.model}: making {name}")
            part = self.folder / f"part-{name}"
            log = self.folder / f"{name}.log"
            run_tool(environment, module, (*before, str(part), *after), log)
            os.replace(part, path)
        return path


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
