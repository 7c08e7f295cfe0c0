"""As many threads as there are free cores."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Collection

import pytest
import torch

from canao.train.engine import threads
from canao.train.engine.threads import FreeCores, Reading, adapt, read


def busy(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


class Script:
    """Readings three seconds and more apart: what others and this process took meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, others: list[float], own: float) -> None:
        self.others, self.own, self.looks = others, own, -1
        monkeypatch.setattr(threads.time, "monotonic", lambda: 4.0 * (self.looks + 1))

    def __call__(self, cores: Collection[int]) -> Reading:
        self.looks += 1
        taken = sum(self.others[: self.looks])
        return Reading(4.0 * self.looks, 4.0 * (taken + self.looks * self.own),
                       4.0 * self.looks * self.own)  # fmt: skip


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([0.0, 0.2, 0.3], [4, 4, 4]),  # what every machine does beside
        ([1.0, 1.0, 1.1], [3, 3, 3]),
        ([0.7, 2.5, 9.0], [3, 1, 1]),  # one thread at least
        ([2.0, 0.0, 0.0, 0.0], [2, 2, 4, 4]),  # more only after two looks
        ([2.0, 0.0, 2.0, 0.0], [2, 2, 2, 2]),
    ],
)
def test_threads_follow_the_free_cores(
    others: list[float], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(monkeypatch, others, own=2.0)
    cores = FreeCores(range(4), 4, script)
    assert [cores.look() for _ in others] == expected


def test_never_more_than_pytorch_was_set_to(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = FreeCores(range(8), 4, Script(monkeypatch, [0.0, 0.0, 6.0, 0.0, 0.0], own=1.0))
    assert [cores.look() for _ in range(5)] == [4, 4, 2, 2, 4]


def test_where_the_system_does_not_tell() -> None:
    cores = FreeCores(range(3), 3, lambda cores: None)
    assert cores.look() == 3


def test_a_core_that_is_taken_is_seen() -> None:
    """A process on one of this machine's cores takes about one of them, and this one sees it."""
    allowed = sorted(os.sched_getaffinity(0))
    first, start = read(allowed[:1]), time.monotonic()
    if first is None:
        pytest.skip("this system does not say how busy cores are")
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=_on, args=(allowed[0], 1.5))
    other.start()
    other.join()
    now, wall = read(allowed[:1]), time.monotonic() - start
    assert now is not None and now.busy - first.busy > 1.0 <= wall
    assert now.own - first.own < 1.0, "the other's time is not this process's"


def _on(core: int, seconds: float) -> None:
    os.sched_setaffinity(0, {core})
    busy(seconds)


def test_only_where_nobody_named_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FreeCores, "look", lambda self: 1)
    torch.set_num_threads(2)
    with threads.threads(2):
        adapt()
        assert torch.get_num_threads() == 2
    with threads.threads(None):
        adapt()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    adapt()
    assert torch.get_num_threads() == 2
