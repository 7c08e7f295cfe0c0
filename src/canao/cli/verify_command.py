"""`canao verify`: a library's outputs on a device beside those of its model in float32."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from canao.accuracy.verified import (
    LOADS,
    Compared,
    Verdict,
    beside,
    examined,
    keep_verdict,
    require_right,
)
from canao.api import get_device
from canao.artifact.directory import Artifact
from canao.cli.printing import out, timed
from canao.defaults import silent
from canao.errors import InputError


def verify_and_print(
    path: Path, model: str, device: str, longest: int | None, threads: int, *,
    revision: str | None, ignored: Collection[str], as_json: bool,
) -> None:  # fmt: skip
    """Compare a library with its model, and print how near each length is; DeviceError if one is
    not near enough. What holds on a GPU is kept beside the library."""
    artifact, where = Artifact.load(path), get_device(device)
    say = silent if as_json else timed()
    verdict = examined(
        artifact, model, where, longest, threads, revision=revision, ignored=ignored, say=say
    )  # fmt: skip
    if as_json:
        sys.stdout.write(json.dumps(_form(where.name, artifact, verdict), indent=2) + "\n")
    else:
        out.print(_table(verdict.compared))
        here = f"beside {beside(artifact)} on this machine"
        out.print(f"{artifact.precision} on {where.name}, {here}", soft_wrap=True, markup=False)
        if verdict.differing is not None:
            same = LOADS - verdict.differing
            out.print(f"{same} of {LOADS} loads gave the same bits", soft_wrap=True)
    require_right(artifact, where, verdict)
    try:
        keep_verdict(artifact, where, verdict)
    except InputError as error:
        sys.stderr.write(f"note: nothing is kept of this, so that `canao certify` will not know of "
                         f"it: {error}\n")  # fmt: skip


def _form(device: str, artifact: Artifact, verdict: Verdict) -> dict[str, object]:
    """What is printed for programs: None stands for a difference that is no number."""
    rows = [asdict(one) | {"largest": one.largest if one.largest < float("inf") else None}
            for one in verdict.compared]  # fmt: skip
    return {"device": device, "precision": artifact.precision, "compared": rows,
            "differing_loads": verdict.differing}  # fmt: skip


def _table(found: Sequence[Compared]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("tokens", "cosine", "largest difference", ""):
        table.add_column(head, justify="right" if head else "left")
    for one in found:
        table.add_row(str(one.length), f"{one.cosine:.7f}", f"{one.largest:.2g}",
                      "" if one.holds else "not near")  # fmt: skip
    return table
