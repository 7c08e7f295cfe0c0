"""Options that several commands take, and what their text stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from canao.defaults import Limits
from canao.device.names import HELP as DEVICES
from canao.errors import InputError
from canao.search.options import DEFAULTS
from canao.target import NAMES as TARGETS

PROTOCOL = DEFAULTS.measure

Dir = Annotated[Path, typer.Argument(help="artifact directory written by `canao compile`")]
Model = Annotated[
    str, typer.Argument(help="Hugging Face model directory, .onnx file, or name on the Hub")
]
Revision = Annotated[
    str | None, typer.Option(help="branch, tag or commit of a model named on the Hub")
]
DeviceName = Annotated[str, typer.Option("--device", help=DEVICES)]
DeviceNames = Annotated[
    str, typer.Option("--device", help=f"{DEVICES}; several between commas, for one student that "
                      "keeps its budget on each")
]
TargetName = Annotated[str, typer.Option(help=", ".join(TARGETS))]
Length = Annotated[int, typer.Option(help="tokens in the measured sequence")]
Threads = Annotated[int, typer.Option(help="threads of the compiled model")]
Cores = Annotated[
    str, typer.Option(help="that threads are pinned to: big, middle or little ones, or numbers, as "
                      "4,5 or 4-7; default the fastest")
]
Samples = Annotated[int, typer.Option(help="least number of samples")]
Percentile = Annotated[float, typer.Option(help="percentile that must keep the budget")]
OthersLimit = Annotated[
    float, typer.Option(help="share of a core that other programs may take; 1: any")
]
Compiler = Annotated[str, typer.Option(help="zig, or a compiler on the PATH")]
Ignore = Annotated[
    list[str] | None,
    typer.Option(help="file or entry (FILE:ENTRY) of the model that may be left out; repeatable"),
]
MaxNodes = Annotated[int, typer.Option(help="operators of a model at most")]
MaxMemory = Annotated[float, typer.Option(help="GB that weights, or a run beside them, may take")]
TextColumns = Annotated[
    str | None, typer.Option(help="comma-separated: the column of text, or the two of a pair")
]
LabelColumn = Annotated[str | None, typer.Option(help="the column of labels")]
LabelSeparator = Annotated[
    str | None, typer.Option(help="what stands between two labels of a text that may have several")
]
Precision = Annotated[
    str, typer.Option(help="of products: float32, bf16, fp16, int8, int8-7bit or int8-weights")
]
KvCache = Annotated[
    str, typer.Option(help="what a decoder keeps keys and values in: float32, fp16 or int8")
]
SizeMb = Annotated[
    float | None, typer.Option(help="limit for all files of the artifact, in megabytes")
]
MemoryMb = Annotated[
    float | None, typer.Option(help="limit for the memory of a process that runs the library and "
                               "has read all its weights, in megabytes")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for programs")]


def limits_of(nodes: int, memory: float) -> Limits:
    """What a model may ask for; `memory` is in GB."""
    if nodes < 1 or not memory > 0:
        raise InputError(f"--max-nodes {nodes} --max-memory {memory}: give numbers above 0")
    return Limits(nodes, int(memory * 1e9))


def listed(numbers: Sequence[float]) -> str:
    """Numbers as an option has them."""
    return ",".join(map(str, numbers))


def numbers_of(name: str, text: str, kind: type) -> list[Any]:
    """The numbers of an option."""
    try:
        return [kind(part) for part in text.split(",")] if text.strip() else []
    except ValueError:
        raise InputError(f"{name} '{text}' is not a comma-separated list of numbers") from None


def minutes_of(text: str) -> int:
    """The minutes of --sustain: '10m', '600s' or '10'."""
    match = re.fullmatch(r"([0-9]{1,6})(m|s|)", text.strip())
    seconds = 0 if match is None else int(match[1]) * (1 if match[2] == "s" else 60)
    if match is None or seconds % 60:
        raise InputError(f"--sustain '{text}': give whole minutes, as 10m")
    return seconds // 60


def names_of(text: str | None) -> list[str]:
    """Names of columns, between commas; their spaces are theirs."""
    return [] if text is None else text.split(",")
