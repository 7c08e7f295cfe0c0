"""Which cores of a machine a library is pinned to, by the names that people have for them."""

from __future__ import annotations

import re

from canao.errors import InputError
from canao.machine import Machine

KINDS = ("big", "middle", "little")
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?\Z", re.ASCII)


def named_cores(text: str, machine: Machine, threads: int) -> tuple[int, ...]:
    """The cores that `text` names, one for each thread: 'big', 'middle' or 'little', of which the
    first so many are taken; or numbers, as '4,5' or '4-7'. '' names none.

    Big are the cores of the fastest cluster, little those of the slowest, middle all between.
    InputError if the machine has no such cores, or not as many as threads.
    """
    if not text.strip():
        return ()
    if text in KINDS:
        return _of_kind(text, machine, threads)
    numbers = _numbers(text)
    known = sorted(core for cluster in machine.clusters for core in cluster.cores)
    for core in numbers:
        if known and core not in known:
            raise InputError(f"--cores {text}: there is no core {core}; there are "
                             f"{', '.join(map(str, known))}")  # fmt: skip
    if len(numbers) != threads:
        raise InputError(f"--cores {text}: are {len(numbers)} cores for {threads} threads; name "
                         f"one for each, or give --threads {len(numbers)}")  # fmt: skip
    return numbers


def _of_kind(kind: str, machine: Machine, threads: int) -> tuple[int, ...]:
    clusters = machine.clusters
    chosen = {"big": clusters[:1], "middle": clusters[1:-1],
              "little": clusters[1:][-1:]}[kind]  # fmt: skip
    usable = [core for cluster in chosen for core in cluster.cores if core in machine.cores]
    if not usable:
        raise InputError(f"--cores {kind}: there are none that may be used; the cores are "
                         f"{described(machine) or 'unknown'}")  # fmt: skip
    if len(usable) < threads:
        raise InputError(
            f"--cores {kind}: are {len(usable)} for {threads} threads; give --threads "
            f"{len(usable)} at most, or name the cores by numbers"
        )
    return tuple(usable[:threads])


def _numbers(text: str) -> tuple[int, ...]:
    found: list[int] = []
    for part in text.split(","):
        match = _RANGE.match(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last - first > 1024:
            raise InputError(
                f"--cores {text}: give {', '.join(KINDS)}, or numbers of cores, as 4,5 or 4-7"
            )
        found += range(first, last + 1)
    if len(set(found)) != len(found):
        raise InputError(f"--cores {text}: names a core twice; name each once")
    return tuple(found)


def described(machine: Machine) -> str:
    """A machine's clusters in words, the fastest first: '4-5 (2800 MHz), 0-3 (1800 MHz)'."""
    return ", ".join(
        _ranges(cluster.cores) + (f" ({cluster.mhz} MHz)" if cluster.mhz else "")
        for cluster in machine.clusters
    )


def _ranges(cores: tuple[int, ...]) -> str:
    """Numbers of cores as people write them: 0-3,8."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
