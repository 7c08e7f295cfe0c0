"""Schedule -> the C file of a library, by the emitter of its target's backend."""

from __future__ import annotations

from canao.emit.c import unit as c
from canao.emit.opencl import unit as opencl
from canao.schedule.schedule import Schedule
from canao.target import CPU, OPENCL, Target

_EMITTERS = {CPU: c.emit, OPENCL: opencl.emit}


def emit(schedule: Schedule, target: Target) -> c.Source:
    """C for a schedule. The same schedule and target give the same bytes."""
    return _EMITTERS[target.backend](schedule, target)
