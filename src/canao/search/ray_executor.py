"""`--executor ray`: proxy scores as tasks of a Ray cluster, or of a local Ray where there is none.

The nodes must have CANAO, and see the run directory and the teacher's by the same paths, as over a
shared file system: what is trained is written there, and read again by a search that goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from canao.artifact.reading import first_line
from canao.device.lease import Lease
from canao.errors import InputError
from canao.model.arch import Arch
from canao.search.options import Trainer
from canao.train.engine.threads import making_way
from canao.train.metrics import Score

_EXTRA = "install it with: pip install 'canao[ray]'"
_trainers: dict[str, Trainer] = {}  # of a node's process: a teacher is loaded once


class RayExecutor:
    """Proxy scores by tasks of Ray. `close` ends the connection to the cluster.

    make     makes the trainer; it is sent to the nodes, so it has to be picklable
    needed   files that a node has to see
    device   the place that is measured: on the same machine, tasks make way for measurements
    cpus, gpus   of each task
    """

    def __init__(
        self, make: Callable[[], Trainer], needed: Sequence[Path], device: str, *, cpus: int = 1,
        gpus: int = 0,
    ) -> None:  # fmt: skip
        self._ray = _connected()
        held = self._ray.cluster_resources()
        room = [held.get("CPU", 0) // cpus, *([held.get("GPU", 0) // gpus] if gpus else [])]
        if min(room) < 1:
            self._ray.shutdown()
            raise InputError(f"--executor ray: no node has {cpus} CPUs and {gpus} GPUs for a task; "
                             "add one to the cluster")  # fmt: skip
        self.places = int(min(room))
        self._task = self._ray.remote(_proxy_score).options(num_cpus=cpus, num_gpus=gpus)
        self._make = self._ray.put((uuid4().hex, make, [str(path) for path in needed], device))
        self._under_way: dict[Any, Arch] = {}

    def submit(self, arch: Arch) -> None:
        self._under_way[self._task.remote(self._make, arch.to_json())] = arch

    def landed(self, *, wait: bool) -> Sequence[tuple[Arch, Score, float]]:
        if not self._under_way:
            return ()
        done, _ = self._ray.wait(
            list(self._under_way), num_returns=1 if wait else len(self._under_way),
            timeout=None if wait else 0,
        )  # fmt: skip
        return [self._result(one) for one in done]

    def _result(self, task: Any) -> tuple[Arch, Score, float]:
        arch = self._under_way[task]
        try:
            wrong, metrics, primary, seconds = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            told = f"the training of {arch} was lost ({first_line(error)})"
            raise InputError(f"--executor ray: {told}; the same command goes on") from None
        if wrong:
            raise InputError(f"--executor ray: {wrong}")
        del self._under_way[task]
        return arch, Score(metrics, primary), seconds

    def close(self) -> None:
        for task in self._under_way:
            self._ray.cancel(task, force=True)
        self._under_way = {}
        self._ray.shutdown()


def _connected() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError(f"--executor ray: ray is not installed; {_EXTRA}") from None
    try:
        ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # noqa: BLE001 - Ray raises errors of all kinds
        raise InputError(f"--executor ray: no cluster can be reached or started "
                         f"({first_line(error)}); see `ray status`") from None  # fmt: skip
    return ray


def _proxy_score(
    given: tuple[str, Callable[[], Trainer], Sequence[str], str], arch: str
) -> tuple[str, dict[str, float], str, float]:
    """On a node: what went wrong, '' for nothing; the score of an architecture, and the seconds
    that it took."""
    from canao.errors import CanaoError

    id, make, needed, device = given
    begun = time.monotonic()
    try:
        _require(needed)
        if id not in _trainers:
            _trainers.clear()
            _trainers[id] = make()
        with making_way(Lease(device)):
            score = _trainers[id].proxy_score(Arch.from_json(arch))
    except CanaoError as error:
        return str(error), {}, "", 0.0
    return "", dict(score.metrics), score.primary, time.monotonic() - begun


def _require(needed: Sequence[str]) -> None:
    for path in needed:
        if not Path(path).exists():
            import socket

            raise InputError(f"{path}: is not on node {socket.gethostname()}; share the file system"
                             " of the search with all nodes")  # fmt: skip
