"""What programs do wrong with a model in C, and forking: a status each time, under sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from canao.build import get_toolchain
from tests.compiler import programs
from tests.compiler.models import decoder
from tests.compiler.test_programs import HOST, RACES, SANITIZERS, gcc

# What kernels compute is not the matter here, and scalar ones compile fast.
TARGET = HOST.with_isa("scalar")


def built(folder: Path, flags: tuple[str, ...]) -> list[str]:
    stages = programs.staged(decoder("three_heads", layers=1, max_length=32), TARGET, True)
    return programs.build(stages, TARGET, folder, get_toolchain(gcc()), flags, "misuse_harness.c")


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return built(tmp_path_factory.mktemp("misuse"), SANITIZERS)


def run(command: list[str], *arguments: str) -> None:
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and not done.stderr, done.stderr[:3000]


@pytest.mark.parametrize("threads", ("1", "2", "3"))
def test_closed_models(command: list[str], threads: str) -> None:
    """Closed twice, called when closed, closed during a call of another thread, never opened."""
    run(command, threads, "handles")


@pytest.mark.parametrize("threads", ("1", "2"))
def test_cores_that_are_not_there(command: list[str], threads: str) -> None:
    run(command, threads, "cores")


def test_weights_that_are_no_file(command: list[str], tmp_path: Path) -> None:
    run(command, "1", "files", str(tmp_path))


@pytest.mark.parametrize("threads", ("1", "2", "3"))
def test_forked_processes_go_on(command: list[str], threads: str) -> None:
    """With a team of their own, also where another thread was in a call, and their children too."""
    run(command, threads, "fork")


def test_closed_during_a_call_without_races(tmp_path: Path) -> None:
    command = built(tmp_path, RACES)
    run(command, "2", "handles")
