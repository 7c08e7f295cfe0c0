"""The engines: in which environment each runs, what it loads, how far its output may be off."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from canao.accuracy.fastest import candidates
from canao.lower.scheduling import target_in
from canao.machine import local_machine
from canao.precision.quantize import FLOAT32, INT8, PRECISIONS, SEVEN_BITS
from canao.target import get_target

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENVIRONMENTS = ROOT / "build" / "bench"  # `make bench` fills it
CANAO = "canao"
# Why torch.compile is missing on a machine: no fault of the measurement.
NO_CXX = "torch.compile needs a C++ compiler, and none is on the PATH"
# Why an engine is missing in bfloat16: without these instructions it would only be emulated.
NO_BF16 = "this CPU has no instructions for products in bfloat16"
NO_FAULT = (NO_CXX, NO_BF16)
_BF16_FLAGS = frozenset(("avx512_bf16", "amx_bf16", "bf16"))
OWN = ""  # the environment that the harness itself runs in
BF16 = "bf16"
# Outputs in fewer bits are no roundings off, and no difference tells right from wrong. An output of
# random weights that has less than this in common with float32's has little of the model left.
LEAST_COSINE = 0.9


@dataclass(frozen=True)
class Engine:
    """One way to run a model.

    module        the worker, a module of this package
    environment   folder under build/bench, or OWN
    takes         what it loads: artifact, unfused, weights, onnx, mnn, tflite, or one of them in
                  a precision, as artifact-int8
    options       words for the worker
    tolerance     largest right difference to PyTorch in float32, in standard deviations of the
                  output
    precision     of its products
    plain         the name of the same engine in float32, if this is another precision
    """

    name: str
    module: str
    environment: str
    takes: str
    options: tuple[str, ...] = ()
    tolerance: float = 1e-4
    precision: str = FLOAT32
    plain: str = ""

    def right(self, difference: float, cosine: float) -> bool:
        """Whether an output may be so far from PyTorch's in float32."""
        if self.precision == FLOAT32:
            return difference <= self.tolerance
        return cosine >= LEAST_COSINE


def own_label(precision: str) -> str:
    """CANAO's engine in a precision."""
    return CANAO if precision == FLOAT32 else f"{CANAO}-{precision}"


def isa_label(isa: str, own: str) -> str:
    """The instruction set of CANAO's libraries in records: the one that was asked for, or ''; which
    machine it was measured on, where that has more."""
    return own if isa in ("", own) else f"{isa} on {own}"


def isa_of_machine(precision: str, isa: str = "") -> str:
    """The same, of libraries in a precision on this machine. Of two machines with one name for the
    processor, that a system shows AMX is in the instruction set for fewer bits."""
    return isa_label(isa, target_in(get_target(), precision).isa)


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

# The same in fewer bits, as their makers say it is done on CPUs. CANAO in all that it has.
REDUCED = {
    engine.name: engine
    for engine in (
        *(Engine(own_label(name), "native", OWN, f"artifact-{name}", precision=name, plain=CANAO)
          for name in PRECISIONS if name != FLOAT32),
        # Activations are QUInt8 in all dynamic quantisation of ONNX Runtime; the weights may be
        # either. Of QInt8, x86 without VNNI adds pairs of products in 16 bits, which saturate.
        Engine("ort-int8", "ort", "ort", "onnx-int8", precision=INT8, plain="ort"),
        Engine("ort-uint8", "ort", "ort", "onnx-uint8", precision=INT8, plain="ort"),
        Engine("openvino-int8", "openvino", "openvino", "nncf-int8", precision=INT8,
               plain="openvino"),
        Engine("openvino-int8-bf16", "openvino", "openvino", "nncf-int8", ("bf16",),
               precision=INT8, plain="openvino"),
        Engine("openvino-bf16", "openvino", "openvino", "onnx", ("bf16",), precision=BF16,
               plain="openvino"),
        Engine("litert-int8", "litert", "litert", "tflite-int8", precision=INT8, plain="litert"),
        Engine("torch-int8", "pytorch", OWN, "weights", ("int8",), precision=INT8,
               plain="torch-eager"),
        Engine("torch-bf16", "pytorch", OWN, "weights", ("bf16",), precision=BF16,
               plain="torch-eager"),
    )
}  # fmt: skip
ALL = ENGINES | REDUCED
OWN_LABELS = frozenset(name for name, engine in ALL.items() if engine.module == "native")
MEASURED = tuple(dict.fromkeys((FLOAT32, INT8, BF16, *PRECISIONS)))


def entrants(precision: str, isa: str = "") -> tuple[str, ...]:
    """Who takes part in a run of a precision: in float32 all engines, else those that have it, each
    after itself in float32. In int8 also CANAO in 7 bits, where these are multiplied in another
    way than 8. With an instruction set, CANAO alone: the others take what they find."""
    target = get_target().with_isa(isa) if isa else get_target()
    of: Iterable[Engine] = ENGINES.values()
    if precision != FLOAT32:
        seven = precision == INT8 and SEVEN_BITS in candidates(target)
        wanted = {precision, *([SEVEN_BITS] if seven else ())}
        of = [engine for engine in REDUCED.values() if engine.precision in wanted]
    found = _each_once(name for engine in of for name in (engine.plain, engine.name) if name)
    return tuple(name for name in found if name in OWN_LABELS or not isa)


def _each_once(names: Iterable[str]) -> tuple[str, ...]:
    """Without what comes again; CANAO first, whether or not it has the precision."""
    return tuple(dict.fromkeys((CANAO, *names)))


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
    if "bf16" in engine.options and _BF16_FLAGS.isdisjoint(local_machine().features):
        return NO_BF16
    return None
