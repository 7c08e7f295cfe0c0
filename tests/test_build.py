"""The stamp of the code that makes kernels."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import canao
from canao import build
from canao.build import Toolchain, code_stamp, kernel_code

pytestmark = pytest.mark.as_shipped

PACKAGE = Path(canao.__file__).parent
DRIVER = Toolchain("cc", ("cc",), "1.0")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package that is stamped in its place."""
    copy = tmp_path / "canao"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(build.resources, "files", lambda name: copy)
    return copy


def stamp() -> str:
    code_stamp.cache_clear()
    return code_stamp(DRIVER)


@pytest.fixture(autouse=True)
def forget() -> None:
    code_stamp.cache_clear()


def test_all_code_of_kernels_is_stamped() -> None:
    named = {name for name, _ in kernel_code()}
    for place in ("fuse/forms/form.py", "fuse/yellow_cells.json", "fuse/rules/algebra.py",
                  "schedule/memory.py", "isa/avx2.py", "lower/cpu/tiles.py", "graph/ops.py",
                  "emit/c/unit.py", "runtime/model.c", "runtime/canao_runtime.h"):  # fmt: skip
        assert place in named
    assert not [name for name in named if name.startswith(("model/", "search/")) or "/__py" in name]


def test_any_change_is_another_stamp(package: Path) -> None:
    seen = {stamp()}
    for place in ("fuse/rules/algebra.py", "fuse/yellow_cells.json", "schedule/memory.py",
                  "emit/c/unit.py", "runtime/model.c", "runtime/canao_runtime.h"):  # fmt: skip
        with open(package / place, "a") as stream:
            stream.write("\n")
        seen.add(stamp())
    (package / "emit" / "deeper").mkdir()
    (package / "emit" / "deeper" / "new.py").write_text("")
    seen.add(stamp())
    (package / "lower" / "vulkan").mkdir()
    (package / "lower" / "vulkan" / "rows.py").write_text("")
    seen.add(stamp())
    (package / "lower" / "vulkan" / "rows.py").rename(package / "lower" / "vulkan" / "gemm.py")
    seen.add(stamp())
    assert len(seen) == 10


def test_what_makes_no_kernels_is_not_stamped(package: Path) -> None:
    before = stamp()
    for place in ("cli.py", "search/loop.py", "emit/notes.md", "emit/__pycache__"):
        path = package / place
        path.mkdir() if path.suffix == "" else path.open("a").write("\n")
    (package / "emit" / "__pycache__" / "c.cpython-311.pyc").write_bytes(b"x")
    assert stamp() == before


def test_the_compiler_is_stamped() -> None:
    assert code_stamp(DRIVER) != code_stamp(Toolchain("cc", ("cc",), "2.0"))
