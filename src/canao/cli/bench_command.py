"""`canao bench`: the latency of a library, for people or for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from canao.api import get_device
from canao.artifact.directory import Artifact
from canao.cli.printing import print_profile, print_timing, timed
from canao.defaults import silent
from canao.device.base import Failure, MeasureConfig, Timing, check_length
from canao.device.cores import named_cores
from canao.device.lease import leased
from canao.errors import DeviceError
from canao.isa.table import FLOAT


def bench_and_print(
    artifact: Path, device: str, config: MeasureConfig, percentiles: Sequence[float], *,
    cores: str, profile: bool, as_json: bool, raw: bool,
) -> None:  # fmt: skip
    """Measure a library, with `profile` its kernels as well; with `raw` print every sample."""
    say = silent if as_json or raw else timed()
    loaded, where = Artifact.load(artifact), leased(get_device(device), say)
    check_length(loaded, config)
    config = replace(config, cores=named_cores(cores, where.machine, config.threads))
    loaded.verify()
    timing = _timed(where.measure(loaded, config))
    steps = where.profile(loaded, config) if profile else ()
    more = loaded.resumes and config.length < loaded.max_length
    each = _timed(where.measure_next(loaded, config)) if more else None
    if as_json or raw:
        form = bench_form(loaded, timing, each, percentiles, raw=raw)
        if profile:
            form["profile_ms"] = profile_form(loaded, steps)
        sys.stdout.write(json.dumps(form, indent=2) + "\n")
        return
    print_timing(timing, each, percentiles, where.name, loaded.precision)
    if profile:
        print_profile(loaded, where, steps, config)


def bench_form(
    artifact: Artifact, timing: Timing, each: Timing | None, percentiles: Sequence[float], *,
    raw: bool,
) -> dict[str, Any]:  # fmt: skip
    """What is printed for programs; `each` is of the tokens after the first, of a decoder."""
    form = timing.to_dict(raw=raw) | {"latency_ms": timing.summary(percentiles)}
    form["others"] = timing.others and timing.others.to_dict()
    form["precision"] = artifact.precision
    if each:
        form["token_ms"] = each.summary(percentiles)
    return form


def profile_form(artifact: Artifact, steps: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    """The kernels in the order in which they run."""
    products = artifact.products
    return [
        {"kernel": name, "product": products.get(name, FLOAT), "median": ms} for name, ms in steps
    ]


def _timed(measured: Timing | Failure) -> Timing:
    if isinstance(measured, Failure):
        raise DeviceError(f"{measured.stage}: {measured.message}")
    return measured
