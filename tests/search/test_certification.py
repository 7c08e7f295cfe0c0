"""The end of a search: what is certified beside other programs, on full disks, and what the run's
report says of certificates that are not its own."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canao.artifact.certificate_file import load_certificate
from canao.artifact.directory import Artifact
from canao.artifact.files import file_digest
from canao.artifact.measured import Others
from canao.device.base import MeasureConfig
from canao.device.certify import UnsavedError, certify
from canao.device.null import NullDevice
from canao.errors import BudgetError, DeviceError, InputError
from canao.machine import Machine
from canao.report.write import write_report
from canao.search import Event, SearchResult
from canao.search.candidates.space import Space
from tests.search.landscape import (
    TEACHER,
    FormulaTrainer,
    arch_of,
    compile_by_formula,
    device,
    latency_ms,
    options,
    run_search,
)

QUIET = Others({0: 0.0}, used=(0,), waited=0.0)
BUSY = Others({0: 0.4}, used=(0,), waited=0.1)
AT_ONCE = {"pauses_s": (0.0, 0.0)}


def searched(run_dir: Path, where: NullDevice, **changes: Any) -> tuple[SearchResult, list[Event]]:
    events: list[Event] = []
    asked = options(run_dir, trials=2, **AT_ONCE | changes)
    trainer = FormulaTrainer(run_dir.parent / "w")
    return run_search(asked, trainer, compile_by_formula, where, events.append), events


def measurements(run_dir: Path) -> int:
    """How many a search of this kind takes before its library is certified."""
    asked: list[str] = []

    class Counting(NullDevice):
        def measure(self, artifact: Artifact, config: MeasureConfig) -> Any:
            asked.append(str(config.samples))
            return super().measure(artifact, config)

    plain = device()
    counting = Counting(plain._script, kernels=plain._kernels)
    searched(run_dir, counting)
    return len(asked) - 5


def test_disturbed_processes_are_set_aside(tmp_path: Path) -> None:
    before = measurements(tmp_path / "count")
    others = [QUIET] * before + [BUSY, BUSY, QUIET]
    result, events = searched(tmp_path / "run", device(others=others))
    assert result.certificate.others == QUIET and not result.certificate.disturbed
    again = [e.text for e in events if ", disturbed: others took 40% of core 0" in e.text]
    assert len(again) == len(result.certificate.set_aside) == 2


def test_a_library_is_measured_once(tmp_path: Path) -> None:
    """One that misses the budget is not tried again, neither at once nor when the run is resumed:
    luck would select it."""
    finals: list[str] = []

    class Unlucky(NullDevice):
        def measure(self, artifact: Artifact, config: MeasureConfig) -> Any:
            found = super().measure(artifact, config)
            finished = [arch for kind, arch in trainer.asked if kind == "finish"]
            if config.samples != 205 or arch_of(artifact) not in finished[:1]:
                return found
            finals.append(str(arch_of(artifact)))
            return replace(found, samples_ms=tuple(100.0 * ms for ms in found.samples_ms))

    trainer, events, plain = FormulaTrainer(tmp_path / "w"), list[Event](), device()
    unlucky = Unlucky(plain._script, kernels=plain._kernels)
    asked = options(tmp_path / "run", trials=4, finalists=1, **AT_ONCE)
    with pytest.raises(BudgetError, match="no finished library kept"):
        run_search(asked, trainer, compile_by_formula, unlucky, events.append)
    missed = finals[0]
    assert finals == [missed] * 5  # five processes, once
    result = run_search(asked, trainer, compile_by_formula, unlucky, events.append)
    assert str(result.arch) != missed and result.certificate.holds
    assert finals.count(missed) == 5


def test_a_budget_kept_beside_others_is_kept(tmp_path: Path) -> None:
    """They can only make it slower. The certificate and the page say what they took."""
    result, events = searched(tmp_path / "run", device(others=[BUSY]))
    assert result.certificate.holds and result.certificate.disturbed
    assert load_certificate(result.artifact).others == BUSY
    assert "keeps the budget in spite of that" in events[-1].text
    page = write_report(tmp_path / "run").read_text()
    assert "core 0 40%" in page and "over the limit" in page


def test_a_budget_missed_beside_others_is_not_judged(tmp_path: Path) -> None:
    """Exit code 5, where it would be 1: the same command continues, and trains nothing again."""
    trainer = FormulaTrainer(tmp_path / "w")

    def slow_at_last(artifact: Artifact) -> float:
        arch = device()._script(artifact)  # type: ignore[operator]
        return arch * (1000.0 if trainer.count("finish") else 1.0)

    def search(others: list[Others], latency: Callable[[Artifact], float]) -> SearchResult:
        where = NullDevice(latency, kernels=device()._kernels, others=others)
        asked = options(tmp_path / "run", trials=2, **AT_ONCE)
        return run_search(asked, trainer, compile_by_formula, where)

    said = (r"was disturbed, in 10 processes: others took 40% of core 0; nothing is judged: .* "
            r"continues where it stopped")  # fmt: skip
    with pytest.raises(DeviceError, match=said) as raised:
        search([BUSY], slow_at_last)
    assert raised.value.exit_code == 5 and "\n" not in str(raised.value)
    assert not (tmp_path / "run" / "artifact").exists()
    assert "unfinished" in write_report(tmp_path / "run").read_text()
    proxies = trainer.count("proxy")
    assert search([QUIET], device()._script).certificate.holds  # type: ignore[arg-type]
    assert trainer.count("proxy") == proxies


def test_whether_any_student_fits_is_not_judged_beside_others(tmp_path: Path) -> None:
    smallest = Space.of_teacher(TEACHER).smallest
    budget = 0.5 * latency_ms(smallest)
    with pytest.raises(BudgetError, match="smallest"):
        searched(tmp_path / "quiet", device(others=[QUIET]), budget_ms=budget)
    with pytest.raises(DeviceError, match=r"was disturbed, 3 times"):
        searched(tmp_path / "busy", device(others=[BUSY]), budget_ms=budget)
    with pytest.raises(BudgetError, match="smallest"):
        searched(tmp_path / "lifted", device(others=[BUSY]), budget_ms=budget, others_limit=1.0)


def test_the_limit_may_change_when_a_run_is_resumed(tmp_path: Path) -> None:
    searched(tmp_path / "run", device(others=[BUSY]))
    result, _ = searched(tmp_path / "run", device(others=[BUSY]), others_limit=1.0)
    assert not result.certificate.disturbed
    with pytest.raises(InputError, match="others-limit"):
        options(tmp_path, others_limit=2.0)


# The report and certificates


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its report."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    searched(run_dir, device())
    write_report(run_dir)
    return run_dir


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    """One of its own, for a test to spoil."""
    return shutil.copytree(finished, tmp_path / "run")


def state(run_dir: Path) -> str:
    said: str = json.loads((run_dir / "summary.json").read_text())["state"]
    return said


def refuses(run_dir: Path, words: str) -> None:
    """The report says in a line why, and neither the page nor the summary says 'certified'."""
    with pytest.raises(InputError, match=words) as raised:
        write_report(run_dir)
    assert "\n" not in str(raised.value)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["state"] == "refused" and summary["refused"] == str(raised.value)
    assert summary["certified_ms"] is summary["speedup"] is summary["student"] is None
    page = (run_dir / "report.html").read_text()
    assert "refused: " in page and "certified" not in page


@pytest.mark.parametrize("name", ["model.so", "weights.bin", "manifest.json"])
def test_the_report_hashes_the_files(run_dir: Path, name: str) -> None:
    path = run_dir / "artifact" / name
    path.write_bytes(path.read_bytes() + b"\n")
    refuses(run_dir, name)


def test_the_report_is_not_taken_in_by_a_manifest_that_fits(run_dir: Path) -> None:
    folder = run_dir / "artifact"
    (folder / "weights.bin").write_bytes(bytes(64))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["weights.bin"] = file_digest(folder / "weights.bin")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refuses(run_dir, r"manifest\.json")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"measured_ms": 0.001}, "says 'measured_ms' 0.001"),
        ({"budget_ms": 0.001}, "says 'holds' true"),
        ({"format": 1}, "format 1, this CANAO reads 5"),
        ({"date": "2031-01-01T00:00:00+00:00"}, "was changed after it was written"),
        ({"holds": "yes"}, "holds"),
    ],
)
def test_the_report_computes_the_verdict_anew(
    run_dir: Path, entries: dict[str, object], words: str
) -> None:
    path = run_dir / "artifact" / "certificate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    refuses(run_dir, words)


def test_a_certificate_or_an_artifact_that_is_gone(run_dir: Path) -> None:
    (run_dir / "artifact" / "certificate.json").unlink()
    refuses(run_dir, r"no certificate\.json")
    for path in (run_dir / "artifact").iterdir():
        path.unlink()
    (run_dir / "artifact").rmdir()
    refuses(run_dir, r"no manifest\.json")


def test_another_protocol_never_mixes_with_the_report(run_dir: Path) -> None:
    """`canao certify` keeps its hands off the search's certificate; and a certificate of another
    protocol that comes to lie there all the same is not the run's."""
    artifact, before = Artifact.load(run_dir / "artifact"), write_report(run_dir).read_bytes()
    other = MeasureConfig(length=8)
    with pytest.raises(InputError, match=r"length 128, now 8.* is not replaced"):
        certify(artifact, device(), 100.0, other, percentile=1.0)
    assert write_report(run_dir).read_bytes() == before

    mine = run_dir.parent / "mine.json"
    certify(artifact, device(), 100.0, other, percentile=1.0, out=mine)
    assert write_report(run_dir).read_bytes() == before
    assert state(run_dir) == "certified"
    mine.replace(artifact.path / "certificate.json")
    refuses(run_dir, r"another protocol than the search .*budget .*, now 100.0, length 128, now 8")


def test_measured_again_under_its_protocol(run_dir: Path) -> None:
    artifact = Artifact.load(run_dir / "artifact")
    was = load_certificate(artifact)
    budget = was.budget_ms
    certify(artifact, device(lambda arch: 0.9 * latency_ms(arch)), budget, MeasureConfig())
    write_report(run_dir)
    again = json.loads((run_dir / "summary.json").read_text())
    assert state(run_dir) == "certified"
    assert again["certified_ms"] == pytest.approx(0.9 * was.measured_ms)
    certify(artifact, device(lambda arch: 9 * latency_ms(arch)), budget, MeasureConfig())
    page = write_report(run_dir).read_text()
    assert state(run_dir) == "missed" and "THE BUDGET IS MISSED" in page
    assert "certified" not in page


def test_a_result_beside_another_library(run_dir: Path) -> None:
    """As a search leaves it that is killed between the two."""
    row = json.loads((run_dir / "result.json").read_text())
    (run_dir / "result.json").write_text(json.dumps(row | {"digest": "0" * 64}))
    refuses(run_dir, r"result\.json is not of the library .* finishes it")
    (run_dir / "result.json").unlink()
    refuses(run_dir, r"result\.json is not of the library")


def test_a_profile_of_another_library_is_left_out(run_dir: Path) -> None:
    assert "Where time goes" in write_report(run_dir).read_text()
    row = json.loads((run_dir / "profile.json").read_text())
    (run_dir / "profile.json").write_text(json.dumps(row | {"digest": "0" * 64}))
    assert "Where time goes" not in write_report(run_dir).read_text()


def test_a_run_that_went_on_elsewhere_is_unfinished_there(run_dir: Path) -> None:
    """Trials of one machine are never shown with the certificate of another."""
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    elsewhere = device(machine=Machine(cpu="another"))
    with pytest.raises(KeyboardInterrupt):
        run_search(options(run_dir, trials=3, **AT_ONCE),
                   FormulaTrainer(run_dir.parent / "w", on_proxy=stop), compile_by_formula,
                   elsewhere)  # fmt: skip
    page = write_report(run_dir).read_text()
    assert state(run_dir) == "unfinished" and "certified" not in page


# Disks


class Full:
    """No file may grow beyond so many bytes, from the moment that a library has been trained."""

    def __init__(self, most: int) -> None:
        self.before, self.most = resource.getrlimit(resource.RLIMIT_FSIZE), most

    def fill(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.most, self.before[1]))

    def empty(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_a_disk_that_is_full_at_the_end(tmp_path: Path) -> None:
    """One line, what was measured, and the same command goes on."""
    disk, trainer = Full(9_000), FormulaTrainer(tmp_path / "w")

    class Filling(NullDevice):
        def measure(self, artifact: Artifact, config: MeasureConfig) -> Any:
            if trainer.count("finish"):
                disk.fill()
            return super().measure(artifact, config)

    plain = device()
    filling = Filling(plain._script, kernels=plain._kernels)
    try:
        with pytest.raises(UnsavedError, match=r"cannot be written .*measured was p90 .*free some "
                           "space, then the same command continues") as raised:  # fmt: skip
            run_search(options(tmp_path / "run", trials=2), trainer, compile_by_formula, filling)
    finally:
        disk.empty()
    assert raised.value.exit_code == 2 and "\n" not in str(raised.value)
    assert not (tmp_path / "run" / "artifact").exists()
    assert not list((tmp_path / "run").glob(".work-*"))
    proxies = trainer.count("proxy")
    run_search(options(tmp_path / "run", trials=2), trainer, compile_by_formula, plain)
    assert trainer.count("proxy") == proxies
    write_report(tmp_path / "run")
    assert state(tmp_path / "run") == "certified"
