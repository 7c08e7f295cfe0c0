"""A worker: what it needs of the search that it joins, and where it works."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from canao.defaults import PRECISION
from canao.device.base import Device
from canao.errors import InputError
from canao.search.latency.kernels import Imported
from canao.search.loop import Shared, run_worker
from canao.search.options import Compile, LeftOut, Progress, SearchOptions
from canao.search.study.run_file import RUN_FILE, BusyError, locked
from canao.search.study.sharing import TRAINED
from canao.search.study.team import Offer, Team
from canao.train.options import TrainOptions
from canao.train.trainer import Trainer

_DIRECTORIES = "runs/worker-{}"
_MOST = 100  # of these
# Arguments of a search that each of its processes has for itself.
_OWN = frozenset(("run_dir", "from_run", "study", "executor", "progress", "train_progress"))
_PATHS = ("teacher", "data", "augment_model", "unlabelled_text")
_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "None": lambda value: value is None,
    "Collection[str]": lambda value: _is_texts(value),
    "Sequence[str]": lambda value: _is_texts(value),
}


def arguments_of(given: Mapping[str, Any], commit: str | None) -> dict[str, Any]:
    """The arguments of a search as its study keeps them, in JSON form, with whole paths. `commit`
    is that of a teacher on the Hub."""
    found = {name: value for name, value in given.items() if name not in _OWN}
    for name in _PATHS:
        if found[name] is not None and os.path.exists(found[name]):
            found[name] = str(Path(found[name]).resolve())
    found["device"] = getattr(found["device"], "name", found["device"])
    found["revision"] = commit or found["revision"]
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return [str(one) for one in value]


class Joined:
    """A worker of the search in a team's study; `judged` counts the candidates that it judged.

    run_dir   its own, of which it holds the lock
    shared    the run directory of the search as it is seen from here; None: by its own path
    """

    def __init__(self, team: Team, run_dir: Path, shared: Path | None = None) -> None:
        self.team, self.run_dir, self.judged = team, run_dir, 0
        self._record = team.record
        self._run = Path(self._record.run) if shared is None else shared
        self._work = self._record.work if shared is None else str(shared / TRAINED)

    def arguments(self, kinds: Mapping[str, str]) -> dict[str, Any]:
        """The arguments of `canao.search` in the study; `kinds` are their types by name. InputError
        where one has another type."""
        found = {name: value for name, value in self._record.options.items() if name in kinds}
        for name, value in found.items():
            parts = [part.strip() for part in kinds[name].split("|")]
            if name in _OWN or not any(_KINDS[p](value) for p in parts if p in _KINDS):
                raise InputError(
                    f"--study {self.team.shown}: its option {name} is {value!r:.60}, no "
                    f"{kinds[name]}; use the same version of CANAO for all"
                )
        return found

    def run(
        self, options: SearchOptions, trainer: Callable[[Path, TrainOptions], Trainer],
        device: Device, compile: Callable[[str], Compile], contents: Mapping[str, str],
        progress: Progress,
    ) -> Any:  # fmt: skip
        """Judge candidates until there are enough; `compile` makes a compiler for a precision."""
        precision = str(self._record.facts.get("precision", PRECISION))
        options = replace(
            options.in_precision(precision), times_of=self._run,
            left_out=tuple(LeftOut(*row) for row in self._record.left_out),
        )  # fmt: skip
        mine = trainer(self.run_dir / TRAINED, options.training)
        kernels = Imported(mine.blank, device.target, precision)
        shared = Shared(self.team, Offer({}, contents, self._work))
        self.judged = run_worker(
            options, mine, compile(precision), device, kernels, progress, shared
        )


@contextmanager
def own_place(run_dir: Path | None) -> Iterator[Path]:
    """A worker's run directory, locked: the one that is given, or the first of runs/worker-1, -2
    and so on that no other process has."""
    with ExitStack() as stack:
        for number in range(1, _MOST):
            folder = run_dir or Path(_DIRECTORIES.format(number))
            try:
                stack.enter_context(locked(folder))
                break
            except BusyError:
                if run_dir is not None or number == _MOST - 1:
                    raise
        if os.path.lexists(folder / RUN_FILE):
            raise InputError(f"{folder}: is the run directory of a search; give the worker another "
                             "one with --out")  # fmt: skip
        yield folder


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
