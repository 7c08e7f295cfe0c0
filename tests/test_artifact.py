"""Files and directories are there whole or not at all; other versions' artifacts are refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from canao.artifact.directory import ARTIFACT_FORMAT as NOW
from canao.artifact.directory import Artifact
from canao.artifact.files import (
    file_digest,
    fingerprint,
    replace_directory,
    staged_directory,
    staged_file,
    write_whole,
)
from canao.errors import InputError
from tests.search.landscape import TEACHER, FormulaTrainer, compile_by_formula


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return compile_by_formula(FormulaTrainer(tmp_path).skeleton(TEACHER), tmp_path / "out")


def test_counts_before_and_after_fusion(artifact: Artifact) -> None:
    assert artifact.operators == artifact.manifest["operators"] == 60 * TEACHER.layers + 9
    assert artifact.kernels == len(artifact.manifest["kernels"]) == 5 * TEACHER.layers + 2


@pytest.mark.parametrize("found", [1, NOW - 1, NOW + 1, None, str(NOW), float(NOW), True])
def test_another_format_is_refused_by_its_number(artifact: Artifact, found: object) -> None:
    """Other formats have other entries: the format is named, not the entry."""
    row = artifact.manifest | {"format": found}
    row["layers"] = {"before": row.pop("operators"), "after": artifact.kernels}
    (artifact.path / "manifest.json").write_text(json.dumps(row))
    words = f"artifact format {json.dumps(found)}, .* compile the model again"
    with pytest.raises(InputError, match=words):
        Artifact.load(artifact.path)


def test_a_directory_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for text in ("old", "new"):
        with staged_directory(target) as folder:
            (folder / "file").write_text(text)

    def half_done() -> None:
        with staged_directory(target) as folder:
            (folder / "file").write_text("broken")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        half_done()
    assert (target / "file").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_cannot_be_moved_leaves_the_old_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old directory is moved aside first: where the second move fails, it comes back."""
    target, staged, move = tmp_path / "out", tmp_path / "staged", os.replace
    for folder, text in ((target, "old"), (staged, "new")):
        folder.mkdir()
        (folder / "file").write_text(text)

    def fail(source: Path, place: Path) -> None:
        if source == staged:
            raise OSError("no")
        move(source, place)

    monkeypatch.setattr("canao.artifact.files.os.replace", fail)
    with pytest.raises(OSError, match="no"):
        replace_directory(staged, target)
    assert (target / "file").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "staged"]


def test_a_link_to_a_directory_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    with staged_directory(tmp_path / "out") as folder:
        (folder / "file").write_text("new")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / "file").read_text() == "new"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")

    def half_done() -> None:
        with staged_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        half_done()
    assert path.read_text() == "old"
    write_whole(path, b"new")
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


KILLED = """
import os, signal, sys
from pathlib import Path
from canao.artifact import files
target = Path(sys.argv[2])
if sys.argv[1] == "file":
    with files.staged_file(target) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "between":
    # Killed where the old directory is aside and the new one is not yet in its place.
    move = os.replace
    def replace(source, place):
        if str(source).endswith(".canao-new"):
            os.kill(os.getpid(), signal.SIGKILL)
        move(source, place)
    os.replace = replace
with files.staged_directory(target) as folder:
    (folder / "file").write_text("half")
    if sys.argv[1] == "directory":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(what: str, target: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, what, str(target)])
    assert done.returncode == -signal.SIGKILL


def test_a_killed_process_leaves_nothing_for_long(tmp_path: Path) -> None:
    """What is written next removes what was left, and nothing of the user's."""
    mine = tmp_path / ".out.original"
    mine.write_text("mine")
    for what in ("file", "directory"):
        target = tmp_path / f"{what}-target"
        killed(what, target)
        assert len(list(tmp_path.glob(f".{target.name}.*.canao-new"))) == 1 and not target.exists()
        if what == "file":
            write_whole(target, "new")
        else:
            with staged_directory(target) as folder:
                (folder / "file").write_text("new")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".out.original", "directory-target", "file-target",
    ]  # fmt: skip


def test_a_directory_that_was_moved_aside_comes_back(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with staged_directory(target) as folder:
        (folder / "file").write_text("old")
    killed("between", target)
    assert not target.exists()

    def fail() -> None:
        with staged_directory(target):
            assert (target / "file").read_text() == "old"
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert (target / "file").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_what_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    with staged_file(tmp_path / "x") as first, staged_file(tmp_path / "x") as second:
        assert first.exists() and second.exists() and first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "x").read_text() == "1"


@pytest.mark.parametrize("read", [file_digest, fingerprint])
def test_digests_are_of_regular_files(tmp_path: Path, read: Callable[[Path], str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            read(path)
