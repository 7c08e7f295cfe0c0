"""Damaged files of a run, and disks that are full: a result or one line, and never a loss."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

import pytest
import torch

from canao.artifact.directory import Artifact
from canao.errors import CanaoError, InputError
from canao.model import hf
from canao.report.write import write_report
from canao.search.certification import SearchResult
from canao.search.latency.table import LatencyTable
from canao.search.options import SearchOptions
from canao.search.study.journal import read_trials
from canao.train.data import load_data
from canao.train.options import TrainOptions
from canao.train.trainer import Trainer
from tests.search.landscape import (
    TEACHER,
    FormulaTrainer,
    compile_by_formula,
    device,
    kernels_by_formula,
    latency_ms,
    options,
    run_search,
)
from tests.train.tiny_bert import save_tiny, write_task

ROOT = Path(__file__).parents[2]
TRAINING = TrainOptions(
    max_length=16, batch=16, teacher_epochs=1, teacher_lr=2e-3, quick_steps=2, final_epochs=1,
    student_lr=1e-3, threads=1,
)  # fmt: skip


def compile_tiny(model_dir: Path, out: Path) -> Artifact:
    """As `compile_by_formula`, for the directory of a model."""
    arch = hf.arch_of(hf.load_config(model_dir))
    named = out.parent / f"{out.name}-arch"
    named.mkdir()
    (named / "arch.json").write_text(arch.to_json())
    return compile_by_formula(named, out)


class Bench:
    """A search in `place` with a teacher that is really trained, on a device of formulas."""

    def __init__(self, place: Path) -> None:
        self.place = place
        save_tiny(place / "teacher")
        self.data = load_data(write_task(place / "task", train=64, dev=16))

    def search(self, run_dir: Path) -> SearchResult:
        asked = SearchOptions(
            budget_ms=50.0, run_dir=run_dir, trials=1, search_samples=16, controller="random",
            training=TRAINING, data_told=self.data.told,
        )  # fmt: skip
        trainer = Trainer(
            self.place / "teacher", self.data, run_dir / "train", TRAINING, lambda *_: None
        )
        return run_search(asked, trainer, compile_tiny, device())


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("bench"))
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(bench: Bench) -> Path:
    bench.search(bench.place / "run")
    write_report(bench.place / "run")
    return bench.place / "run"


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail what hangs, as on a pipe."""

    def late(*_: object) -> None:
        raise TimeoutError(f"still at it after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def removed(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def another_type(path: Path) -> None:
    path.write_bytes(b'[{"format": 1}, null, 3e999]')


def other_entries(path: Path) -> None:
    path.write_bytes(b'{"format": 1, "key": [], "facts": {}, "tables": [], "arch": 7}')


def deep(path: Path) -> None:
    path.write_bytes(b'{"format": 1, "facts": ' + b"[" * 100_000)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_text("in it")


def another_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE mail (subject TEXT)")
    database.close()


DAMAGES = (removed, emptied, cut, zeroed, another_type, other_entries, deep, pipe, folder,
           another_database)  # fmt: skip


def files_of(run_dir: Path) -> list[Path]:
    """What a search reads again, but for the artifact, which it writes anew."""
    written = ("report.html", "trials.csv", "summary.json", ".lock")
    found = (p.relative_to(run_dir) for p in run_dir.rglob("*") if p.is_file())
    return sorted(p for p in found if p.name not in written and p.parts[0] != "artifact")


def ends_well(action: Callable[[], object]) -> str:
    """'' for a result, else the one line of the error; anything else fails."""
    failed: CanaoError | None = None
    with within(120):
        try:
            action()
        except CanaoError as error:
            failed = error
    if failed is None:
        return ""
    said = str(failed)
    assert "\n" not in said and 20 < len(said) < 600, said
    assert failed.exit_code not in (0, 1), said
    return said


def damaged(
    bench: Bench, run_dir: Path, copy: Path, file: Path, damage: Callable[[Path], None]
) -> tuple[str, str]:
    """What the report and the search say of a copy of a run in which one file is damaged."""
    shutil.copytree(run_dir, copy)
    damage(copy / file)
    try:
        told = ends_well(lambda: write_report(copy)), ends_well(lambda: bench.search(copy))
        if not told[1]:
            assert ends_well(lambda: write_report(copy)) == ""
        return told
    finally:
        shutil.rmtree(copy)


@pytest.mark.parametrize("name", ["study.db", "run.json"])
def test_every_damage_of_what_the_journal_keeps(
    bench: Bench, finished: Path, tmp_path: Path, name: str
) -> None:
    for damage in DAMAGES:
        _, said = damaged(bench, finished, tmp_path / "copy", Path(name), damage)
        if name == "study.db" and damage in (removed, emptied):
            assert said == "", damage
        else:
            assert name in said and ";" in said, (damage, said)


def test_every_damage_of_the_latency_table(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    for damage in DAMAGES:
        shutil.copy(finished / "latency.json", path)
        damage(path)
        said = ends_well(lambda: LatencyTable(path, "here", kernels_by_formula))
        assert (said == "") == (damage is removed), damage
        assert said == "" or said.endswith("delete it to measure again")
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def test_any_file_of_a_run_may_be_damaged(
    bench: Bench, finished: Path, tmp_path: Path
) -> None:
    """Some files in some ways, drawn by a fixed seed."""
    pick = random.Random(11)
    for file in pick.sample(files_of(finished), 6):
        damaged(bench, finished, tmp_path / "copy", file, pick.choice(DAMAGES))


def test_a_damaged_student_is_made_anew(bench: Bench, finished: Path, tmp_path: Path) -> None:
    """Weights with another value at one place, which no loader would notice."""
    shutil.copytree(finished, tmp_path / "copy")
    model = next((tmp_path / "copy" / "train" / "students").glob("*/model.safetensors"))
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 0x40]))
    bench.search(tmp_path / "copy")
    assert model.read_bytes() == whole


def killed_at_once(run_dir: Path) -> None:
    """In a process of its own: a search that is killed in its first training."""
    trainer = FormulaTrainer(
        run_dir.parent / "w", on_proxy=lambda count: os.kill(os.getpid(), signal.SIGKILL)
    )
    run_search(fitting(run_dir), trainer, compile_by_formula, device())


def fitting(run_dir: Path) -> SearchOptions:
    """A budget that the teacher keeps, so that its shape is the first proposal."""
    return options(run_dir, budget_ms=2 * latency_ms(TEACHER), trials=2)


def test_the_suggested_trial_under_way_is_the_next(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from pathlib import Path\n"
         "from tests.search.test_damage import killed_at_once\n"
         "killed_at_once(Path(sys.argv[1]))", str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}, cwd=ROOT, capture_output=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert read_trials(tmp_path / "run") == ()

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    trainer = FormulaTrainer(tmp_path / "w", on_proxy=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_search(fitting(tmp_path / "run"), trainer, compile_by_formula, device())
    trainer = FormulaTrainer(tmp_path / "w")
    result = run_search(fitting(tmp_path / "run"), trainer, compile_by_formula, device())
    assert [arch for kind, arch in trainer.asked if kind == "proxy"][0] == TEACHER
    assert [trial.arch for trial in result.trials].count(TEACHER) == 1
    assert result.arch == TEACHER


def test_a_run_directory_may_be_called_anything(tmp_path: Path) -> None:
    run = tmp_path / "what?mode=ro#1 100%20"
    run_search(options(run, trials=1), FormulaTrainer(tmp_path / "w"), compile_by_formula, device())
    assert (run / "study.db").stat().st_size and len(list(tmp_path.iterdir())) == 2
    assert read_trials(run)


def test_a_move_that_was_interrupted_is_made_again(tmp_path: Path) -> None:
    from tests.search.test_search import elsewhere

    work = tmp_path / "w"
    run_search(options(tmp_path, trials=2), FormulaTrainer(work), compile_by_formula, device())
    before = {trial.arch for trial in read_trials(tmp_path) if trial.trained}

    def stop(event: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_search(
            options(tmp_path, trials=2), FormulaTrainer(work), compile_by_formula, elsewhere(), stop
        )
    again = run_search(
        options(tmp_path, trials=2), FormulaTrainer(work), compile_by_formula, elsewhere()
    )
    assert {trial.arch for trial in again.trials if trial.trained} == before


@pytest.mark.parametrize("name", ["study.db", "run.json"])
def test_a_study_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    """Locked by another program; what a read-only file does root does not see."""
    run = tmp_path / "run"
    run_search(options(run, trials=1), FormulaTrainer(tmp_path / "w"), compile_by_formula, device())
    if name == "run.json":
        (run / "run.json").unlink()
        with pytest.raises(InputError, match=r"has study.db but no run.json; choose another"):
            run_search(options(run), FormulaTrainer(tmp_path / "w"), compile_by_formula, device())
        return
    other = sqlite3.connect(run / "study.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(InputError, match=r"study.db: .*locked.*; close the program") as caught:
            run_search(options(run), FormulaTrainer(tmp_path / "w"), compile_by_formula, device())
        assert "\n" not in str(caught.value)
    finally:
        other.close()


def small_disk(place: Path, size: int) -> None:
    """Mount a file system of that size; skip where that is not allowed."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], capture_output=True
    ) if shutil.which("mount") else None  # fmt: skip
    if mounted is None or mounted.returncode:
        pytest.skip("no file system of a chosen size can be mounted here")


def test_a_full_disk_costs_one_line_and_nothing_else(bench: Bench, tmp_path: Path) -> None:
    """At every fill, from a disk with no room at all on: a line, and on more room the same end."""
    disk = tmp_path / "disk"
    small_disk(disk, 4 << 20)
    run = disk / "run"
    try:
        said = []
        for free in (0, 40, 200, 400, 800, 1200, 1600):  # kB
            fill(disk, free << 10)
            told = ends_well(lambda: bench.search(run))
            if not told:
                break
            said.append(told)
            assert "cannot be" in told or "are free" in told or "study" in told, told
            assert not [p for p in disk.rglob(".*.*") if p.name.startswith(".work-")]
        assert len(said) > 2
        (disk / "filler").unlink(missing_ok=True)
        result = bench.search(run)
        whole = bench.search(tmp_path / "whole")
        assert (result.arch, result.score) == (whole.arch, whole.score)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def fill(disk: Path, free: int) -> None:
    """Leave that many bytes free."""
    (disk / "filler").unlink(missing_ok=True)
    held = os.statvfs(disk)
    with open(disk / "filler", "wb") as stream:
        stream.write(bytes(max(0, held.f_bavail * held.f_frsize - free)))


def test_a_read_only_place_is_named(bench: Bench, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    small_disk(disk, 1 << 20)
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        told = ends_well(lambda: bench.search(disk / "run"))
        assert "Read-only file system" in told and "writable" in told
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_files_that_may_grow_no_further(bench: Bench, finished: Path, tmp_path: Path) -> None:
    """A limit on the size of files, as a quota has: where nothing can be mounted, too."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, before[1]))
    try:
        told = ends_well(lambda: bench.search(tmp_path / "run"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot be" in told and "free some space" in told
    assert bench.search(tmp_path / "run").score


def test_the_report_says_how_the_data_were_understood(bench: Bench, finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert len(bench.data.told) >= 2
    for line in bench.data.told:
        assert escape(line) in page
