"""`canao verify`: a library's outputs on a device beside those of its model in float32."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from canao.accuracy.verified import LOADS, Compared, differing_loads, failures, limits, verified
from canao.api import get_device
from canao.artifact.directory import Artifact
from canao.cli.printing import out
from canao.device.opencl import OpenClDevice
from canao.errors import DeviceError


def verify_and_print(
    path: Path, model: str, device: str, longest: int | None, threads: int, *,
    revision: str | None, ignored: Collection[str], as_json: bool,
) -> None:  # fmt: skip
    """Compare a library with its model, and print how near each length is; DeviceError if one is
    not near enough."""
    artifact, where = Artifact.load(path), get_device(device)
    found = verified(
        artifact, model, where, longest, threads, revision=revision, ignored=ignored
    )  # fmt: skip
    differing = 0
    if isinstance(where, OpenClDevice):
        if not as_json:
            out.print(f"loading it {LOADS} times ...", soft_wrap=True)
        differing = differing_loads(artifact, where, longest)
    if as_json:
        form = _form(where.name, artifact, found) | {"differing_loads": differing}
        sys.stdout.write(json.dumps(form, indent=2) + "\n")
    else:
        out.print(_table(found))
        out.print(f"{artifact.precision} on {where.name}, beside float32 on this machine",
                  soft_wrap=True, markup=False)  # fmt: skip
    if differing:
        raise DeviceError(
            f"{path}: {differing} of {LOADS} loads on {where.name} gave other bits than the first "
            "one: its driver gets a kernel wrong; take another driver or device"
        )
    if wrong := list(failures(found)):
        cosine, largest = limits(artifact)
        other = "--no-fusion" if artifact.on_gpu else "another --isa"
        raise DeviceError(
            f"{path}: outputs on {where.name} are not near float32's at "
            f"{', '.join(map(str, wrong))} tokens ({artifact.precision} allows a cosine from "
            f"{cosine:g} and a difference to {largest:g}); compile it again from this model, or "
            f"with {other}"
        )


def _form(device: str, artifact: Artifact, found: Sequence[Compared]) -> dict[str, object]:
    """What is printed for programs: None stands for a difference that is no number."""
    rows = [asdict(one) | {"largest": one.largest if one.largest < float("inf") else None}
            for one in found]  # fmt: skip
    return {"device": device, "precision": artifact.precision, "compared": rows}


def _table(found: Sequence[Compared]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("tokens", "cosine", "largest difference", ""):
        table.add_column(head, justify="right" if head else "left")
    for one in found:
        table.add_row(str(one.length), f"{one.cosine:.7f}", f"{one.largest:.2g}",
                      "" if one.holds else "not near")  # fmt: skip
    return table
