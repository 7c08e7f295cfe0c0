"""The engines: in which environment each runs, what it loads, how far its output may be off."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENVIRONMENTS = ROOT / "build" / "bench"  # `make bench` fills it
CANAO = "canao"
# Why torch.compile is missing on a machine: no fault of the measurement.
NO_CXX = "torch.compile needs a C++ compiler, and none is on the PATH"
OWN = ""  # the environment that the harness itself runs in


@dataclass(frozen=True)
class Engine:
    """One way to run a model.

    module        the worker, a module of this package
    environment   folder under build/bench, or OWN
    takes         what it loads: artifact, unfused, weights, onnx, mnn or tflite
    options       words for the worker
    tolerance     largest right difference to PyTorch, in standard deviations of the output
    """

    name: str
    module: str
    environment: str
    takes: str
    options: tuple[str, ...] = ()
    tolerance: float = 1e-4


ENGINES = {
    engine.name: engine
    for engine in (
        Engine(CANAO, "native", OWN, "artifact"),
        Engine("litert", "litert", "litert", "tflite"),
        Engine("ort", "ort", "ort", "onnx"),
        Engine("ort-nosln", "ort", "ort", "onnx", ("nosln",)),
        Engine("openvino", "openvino", "openvino", "onnx"),
        # MNN approximates some functions at every precision setting, and lies about 1e-3 off. A
        # wrong attention moves the output further: see the sensitivity of the models.
        Engine("mnn", "mnn", "mnn", "mnn", tolerance=2e-3),
        Engine("torch-eager", "pytorch", OWN, "weights"),
        Engine("torch-compile", "pytorch", OWN, "weights", ("compile",)),
    )
}

# CANAO with one kernel for every layer: a baseline of table2.py, no peer.
UNFUSED = Engine("canao-unfused", "native", OWN, "unfused")


@dataclass(frozen=True)
class Contestant:
    """An engine as it takes part in a run.

    length     tokens that the model is converted for; 0: it takes any
    pad        whether texts are padded to that length
    sessions   copies of the model that share a stream, `threads` threads each
    """

    label: str
    engine: Engine
    length: int
    pad: bool = False
    threads: int = 1
    sessions: int = 1
    options: tuple[str, ...] = ()


def obstacle(engine: Engine) -> str | None:
    """Why the engine cannot run here, where that is no fault of the set-up."""
    if "compile" in engine.options and not any(map(shutil.which, ("g++", "clang++"))):
        return NO_CXX
    return None
