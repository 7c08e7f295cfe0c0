"""Models, texts and conversions on disk, each made once and renamed into place whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peers.catalog import ALL, HERE, OWN, UNFUSED, Contestant, Engine
from peers.host import run_tool
from peers.models import random_ids
from peers.progress import say
from peers.protocol import write_texts

# What CANAO's engines take: the directories have the engines' names.
_ARTIFACTS = {e.takes: e for e in (*ALL.values(), UNFUSED) if e.module == "native"}
_CALIBRATION = 300  # texts that NNCF sees, as it does by default


@dataclass(frozen=True)
class Store:
    """The folder of one model under the work directory.

    Its name holds a hash of the sources and pins that its files depend on. CANAO's artifact
    depends on all of CANAO, and is compiled anew by `compile`; for an instruction set `isa`, or
    for the widest that this machine has.
    """

    model: str
    folder: Path
    isa: str = ""

    @staticmethod
    def open(work: Path, model: str, isa: str = "") -> Store:
        """The store of a model, with its weights."""
        digest = hashlib.sha256()
        names = ("models.py", "prepare.py")
        made = (*HERE.glob("convert_*.py"), *HERE.glob("quantize_*.py"), *HERE.glob("*.txt"))
        for path in (*(HERE / name for name in names), *sorted(made)):
            digest.update(path.read_bytes())
        store = Store(model, work / f"{model}-{digest.hexdigest()[:8]}", isa)
        store.folder.mkdir(parents=True, exist_ok=True)
        store._make("weights.safetensors", OWN, "prepare", ("weights", model))
        return store

    def compile(self, takes: str = "artifact") -> None:
        """What one of CANAO's engines takes, by the sources as they are now."""
        say(f"{self.model}: compiling with CANAO ({takes})")
        engine = _ARTIFACTS[takes]
        out = self._own(engine)
        how = () if engine is UNFUSED else (engine.precision, *([self.isa] if self.isa else ()))
        step = takes if engine is UNFUSED else "artifact"
        where = (step, self.model, str(self.folder), str(out), *how)
        run_tool(OWN, "prepare", where, out.with_name(f"{out.name}.log"))

    def _own(self, engine: Engine) -> Path:
        """The directory of what one of CANAO's engines takes."""
        return self.folder / "-".join((engine.name, *([self.isa] if self.isa else ())))

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

    def kernels(self, length: int, precision: str) -> list[tuple[str, int, int, str]]:
        """(name, FLOPs, bytes, type of the products) of the kernels of the artifact in a precision
        at this length; never kept."""
        path = self.folder / "kernels.json"
        asked = ("kernels", self.model, str(self.folder), str(path), str(length), precision)
        run_tool(OWN, "prepare", asked, self.folder / "kernels.log")
        return [tuple(row) for row in json.loads(path.read_text(encoding="utf-8"))]

    def model_file(self, contestant: Contestant) -> Path:
        """What the contestant's engine loads, converted if it is not there yet."""
        takes, length = contestant.engine.takes, contestant.length
        if takes in _ARTIFACTS:
            return self._own(_ARTIFACTS[takes])
        if takes == "weights":
            return self.folder
        kind, _, bits = takes.partition("-")
        if kind == "tflite":
            plain = self._make(f"{length}.tflite", "litert", "convert_litert",
                               (self.model, str(self.folder)), (str(length),))  # fmt: skip
            if not bits:
                return plain
            return self._make(f"{length}-{bits}.tflite", "litert", "quantize_litert", (str(plain),))
        onnx = self._make(f"{length or 'dynamic'}.onnx", OWN, "prepare",
                          ("onnx", self.model, str(self.folder)), (str(length),))  # fmt: skip
        if kind == "mnn":
            return self._make(f"{length}.mnn", "mnn", "convert_mnn", (str(onnx),))
        if kind == "nncf":
            seen = [random_ids(length, 1 + i).numpy() for i in range(_CALIBRATION)]
            texts = self.texts(f"calibration-{length}", seen)
            return self._make(f"{length}-{bits}.nncf", "openvino", "quantize_openvino",
                              (str(onnx), str(texts)))  # fmt: skip
        if bits:
            return self._make(f"{length}-{bits}.onnx", "ort", "quantize_ort", (str(onnx),), (bits,))
        return onnx

    def _make(
        self, name: str, environment: str, module: str, before: Sequence[str],
        after: Sequence[str] = (),
    ) -> Path:  # fmt: skip
        path = self.folder / name
        if not path.exists():
            say(f"{self.model}: making {name}")
            part = self.folder / f"part-{name}"
            log = self.folder / f"{name}.log"
            run_tool(environment, module, (*before, str(part), *after), log)
            os.replace(part, path)
        return path
