"""Files and directories are there whole or not at all; other versions' artifacts are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from canao.artifact.directory import Artifact
from canao.artifact.files import replace_directory, staged_directory, staged_file, write_whole
from canao.errors import InputError
from tests.search.landscape import TEACHER, FormulaTrainer, compile_by_formula


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return compile_by_formula(FormulaTrainer(tmp_path).skeleton(TEACHER), tmp_path / "out")


def test_counts_before_and_after_fusion(artifact: Artifact) -> None:
    assert artifact.operators == artifact.manifest["operators"] == 60 * TEACHER.layers + 9
    assert artifact.kernels == len(artifact.manifest["kernels"]) == 5 * TEACHER.layers + 2


@pytest.mark.parametrize("found", [1, 3, None, "2"])
def test_another_format_is_refused_by_its_number(artifact: Artifact, found: object) -> None:
    """Format 1 had `layers` where 2 has `operators`: the format is named, not the entry."""
    row = artifact.manifest | {"format": found}
    row["layers"] = {"before": row.pop("operators"), "after": artifact.kernels}
    (artifact.path / "manifest.json").write_text(json.dumps(row))
    with pytest.raises(InputError, match=f"artifact format {found}, .* compile the model again"):
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
