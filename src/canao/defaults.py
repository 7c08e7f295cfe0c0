"""Defaults that belong to no dataclass, and how to look up those that do.

The command line, the Python interface and the functions behind them take a default from here or
from the field of an options class, so that each is written once.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from types import SimpleNamespace
from typing import Any

TARGET = "host"
DEVICE = "local"
CORES = ""  # that threads are pinned to: the fastest
SUSTAIN = "0m"  # of runs without a pause in a certificate
TOOLCHAIN = "zig"
PRECISION = "float32"  # of products
NEAR_COSINE, NEAR_LARGEST = 0.99, 1.0  # of outputs on random texts: beyond is worth a warning
SAME_COSINE, SAME_LARGEST = 0.9999, 0.01  # the same, of float32 on two kinds of processor
MAX_LOSS = 0.5  # points of the metric that another precision may lose
MAX_REGRESSION = 5.0  # percent that a library may need more than its baseline
TUNE_SECONDS = 90.0  # after which `canao tune` ends with what it has


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model may ask for. More is refused, before it is allocated, unless an option lifts it.

    nodes    operators of a graph, the functions of an ONNX file written out; a weight and a layer
             count as the operators that they need at least. --max-nodes
    memory   bytes: of all weights as float32; of what a run needs beside them. Constants that are
             computed at compile time may take an eighth of it. --max-memory, in GB
    """

    nodes: int = 20_000
    memory: int = 8_000_000_000

    @property
    def constants(self) -> int:
        """Bytes that constants which are computed at compile time may take."""
        return self.memory // 8


LIMITS = Limits()


def field_defaults(kind: type) -> SimpleNamespace:
    """The default of each field of a dataclass, by the field's name; required fields are absent."""
    found = {}
    for field in fields(kind):
        if field.default is not MISSING:
            found[field.name] = field.default
        elif field.default_factory is not MISSING:
            found[field.name] = field.default_factory()
    return SimpleNamespace(**found)


def silent(*_: Any) -> None:
    """The default of every progress callback: says nothing."""
