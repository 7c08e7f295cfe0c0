"""The whole search, with a teacher, a compiler and a device that are formulas."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from canao.artifact.certificate_file import load_certificate
from canao.artifact.directory import Artifact
from canao.device.base import Failure, MeasureConfig, Measurement, Timing
from canao.device.null import NullDevice
from canao.errors import BudgetError, DeviceError, DivergedError, InputError
from canao.machine import Machine
from canao.model.arch import Arch
from canao.search import Event, Trial
from canao.search.candidates.trial import FAILED, MEASURED_OVER, TRAINED
from canao.search.controllers.controller import NAMES
from canao.search.latency import place
from canao.search.study.journal import read_trials
from canao.search.study.run_file import locked
from tests.search.landscape import (
    TEACHER,
    FormulaTrainer,
    accuracy,
    arch_of,
    compile_by_formula,
    device,
    kernel_times,
    latency_ms,
    options,
    run_search,
)

# Runs go on in other processes, which compile as users do, and only with the same flags.
pytestmark = pytest.mark.as_shipped
ROOT = Path(__file__).parents[2]
KILLED_AT = 4


def timeless(trials: tuple[Trial, ...]) -> list[Trial]:
    return [replace(trial, seconds=0.0) for trial in trials]


def test_search_certifies_the_best_candidate(tmp_path: Path) -> None:
    trainer, events = FormulaTrainer(tmp_path / "work"), []
    asked = options(tmp_path / "run")
    result = run_search(asked, trainer, compile_by_formula, device(), events.append)

    assert result.certificate.holds
    assert result.certificate.measured_ms <= asked.budget_ms
    assert result.certificate.latency_ms["n"] == 1025  # five processes of equally many
    assert result.artifact.path == tmp_path / "run" / "artifact"
    assert load_certificate(Artifact.load(result.artifact.path)) == result.certificate
    assert result.teacher_ms == pytest.approx(latency_ms(TEACHER))

    trained = [trial for trial in result.trials if trial.trained]
    assert len(trained) == asked.trials == trainer.count("proxy")
    assert max(trained, key=lambda trial: trial.accuracy or 0).arch == result.arch
    assert trainer.count("finish") == 1
    best = next(trial for trial in trained if trial.arch == result.arch)
    assert best.latency_ms == pytest.approx(latency_ms(result.arch))
    assert best.operators == 60 * result.arch.layers + 9
    expected = result.arch.flops(128) / (latency_ms(result.arch) / 1000 * 1e10)
    assert best.utilisation == pytest.approx(expected)
    last = [event for event in events if event.stage == "search"][-1]
    assert (last.done, last.total) == (6, 6) and last.best is not None
    assert not list((tmp_path / "run").glob(".work-*"))


@pytest.mark.parametrize("controller", NAMES)
def test_nothing_over_the_budget_is_trained(tmp_path: Path, controller: str) -> None:
    trainer = FormulaTrainer(tmp_path / "work")
    budget = 0.1 * latency_ms(TEACHER)
    asked = options(tmp_path / "run", controller=controller, budget_ms=budget, trials=3)
    run_search(asked, trainer, compile_by_formula, device())
    assert trainer.count("proxy") == asked.trials
    assert all(latency_ms(arch) <= asked.budget_ms for _, arch in trainer.asked)


def test_a_teacher_that_fits_is_a_candidate(tmp_path: Path) -> None:
    asked = options(tmp_path / "run", budget_ms=2 * latency_ms(TEACHER), trials=2)
    result = run_search(asked, FormulaTrainer(tmp_path / "w"), compile_by_formula, device())
    assert result.trials[0].arch == TEACHER == result.arch


@pytest.mark.parametrize("controller", NAMES)
def test_interrupted_run_ends_like_an_uninterrupted_one(tmp_path: Path, controller: str) -> None:
    whole = run_search(
        options(tmp_path / "whole", controller=controller, trials=4),
        FormulaTrainer(tmp_path / "w"), compile_by_formula, device(),
    )  # fmt: skip

    def interrupt(count: int) -> None:
        if count == 3:
            raise KeyboardInterrupt

    parted = options(tmp_path / "parted", controller=controller, trials=4)
    trainer = FormulaTrainer(tmp_path / "w", on_proxy=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_search(parted, trainer, compile_by_formula, device())
    events: list[Event] = []
    again = run_search(
        parted, FormulaTrainer(tmp_path / "w"), compile_by_formula, device(), events.append
    )
    assert events[0].text == "resuming: 2 of 4 trials done"
    assert timeless(again.trials) == timeless(whole.trials)
    assert again.arch == whole.arch


def killed_run(run_dir: Path) -> None:
    """In a process of its own: a search that is killed in the middle of its fourth training."""

    def kill(count: int) -> None:
        if count == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)

    trainer = FormulaTrainer(run_dir.parent / "w", on_proxy=kill)
    run_search(options(run_dir), trainer, compile_by_formula, device())


def test_killed_run_resumes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from pathlib import Path\n"
         "from tests.search.test_search import killed_run\n"
         "killed_run(Path(sys.argv[1]))", str(tmp_path / "run")],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}, cwd=ROOT, capture_output=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = read_trials(tmp_path / "run")
    assert sum(trial.trained for trial in before) == KILLED_AT - 1

    trainer, events = FormulaTrainer(tmp_path / "w"), []
    resumed = run_search(
        options(tmp_path / "run"), trainer, compile_by_formula, device(), events.append
    )
    assert events[0].text == "resuming: 3 of 6 trials done"
    assert trainer.count("proxy") == 3
    whole = run_search(
        options(tmp_path / "whole"), FormulaTrainer(tmp_path / "w"), compile_by_formula, device()
    )
    assert timeless(resumed.trials) == timeless(whole.trials)


def test_finished_run_goes_on_with_more_trials(tmp_path: Path) -> None:
    first = run_search(
        options(tmp_path / "run", trials=3), FormulaTrainer(tmp_path / "w"), compile_by_formula,
        device(),
    )  # fmt: skip
    trainer = FormulaTrainer(tmp_path / "w")
    more = run_search(options(tmp_path / "run", trials=5), trainer, compile_by_formula, device())
    assert trainer.count("proxy") == 2
    assert more.trials[: len(first.trials)] == first.trials
    assert Artifact.load(tmp_path / "run" / "artifact").digest == more.artifact.digest


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"budget_ms": 9.5}, "budget_ms was 5.9"),
        ({"controller": "random"}, "controller was 'tpe', now 'random'"),
        ({"seed": 4}, "seed was 0, now 4"),
        ({"identity": {"teacher": "other"}}, "teacher was None, now 'other'"),
    ],
)
def test_another_search_in_the_same_directory_is_refused(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    run_search(
        options(tmp_path, trials=1), FormulaTrainer(tmp_path / "w"), compile_by_formula, device()
    )
    with pytest.raises(InputError, match="give the same options or another run dir") as raised:
        run_search(
            options(tmp_path, **change), FormulaTrainer(tmp_path / "w"), compile_by_formula,
            device(),
        )  # fmt: skip
    assert named in str(raised.value) and "\n" not in str(raised.value)


def elsewhere(name: str = "another") -> NullDevice:
    """A machine on which everything takes three quarters of the time."""
    return device(lambda arch: 0.75 * latency_ms(arch), machine=Machine(cpu=name))


def test_another_machine_measures_again_and_trains_nothing_again(tmp_path: Path) -> None:
    first = run_search(
        options(tmp_path, trials=3), FormulaTrainer(tmp_path / "w"), compile_by_formula, device()
    )
    events: list[Event] = []
    moved = run_search(
        options(tmp_path, trials=3), FormulaTrainer(tmp_path / "w"), compile_by_formula,
        elsewhere(), events.append,
    )  # fmt: skip
    assert events[0].stage == "resume"
    assert "on another machine, another " in events[0].text and "instead of none" in events[0].text
    assert "timings taken before are not used" in events[0].text
    trained = {trial.arch: trial for trial in moved.trials if trial.trained}
    assert {trial.arch for trial in first.trials if trial.trained} <= trained.keys()
    for trial in moved.trials:
        if trial.latency_ms is not None:
            assert trial.latency_ms == pytest.approx(0.75 * latency_ms(trial.arch))
    assert moved.teacher_ms == pytest.approx(0.75 * latency_ms(TEACHER))
    assert read_trials(tmp_path) == moved.trials
    assert len(json.loads((tmp_path / "latency.json").read_text())["tables"]) == 2

    events.clear()  # and back: what was measured here is still here
    again = run_search(
        options(tmp_path, trials=3), FormulaTrainer(tmp_path / "w"), compile_by_formula, device(),
        events.append,
    )  # fmt: skip
    assert "on another machine, none " in events[0].text
    assert events[1].text == "resuming: 3 of 3 trials done"
    assert timeless(again.trials) == timeless(first.trials) == timeless(read_trials(tmp_path))


def test_other_code_measures_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, work = options(tmp_path, trials=2), tmp_path / "w"
    run_search(asked, FormulaTrainer(work), compile_by_formula, device())
    monkeypatch.setattr(place, "code_stamp", lambda toolchain: "newer")
    events: list[Event] = []
    run_search(asked, FormulaTrainer(work), compile_by_formula, device(), events.append)
    assert events[0].text.startswith("resuming with other code for kernels: timings taken before")
    assert "2 trained architectures are measured again" in events[0].text


def test_a_run_that_does_not_say_where_it_was_measured(tmp_path: Path) -> None:
    """As earlier versions left them: one study, no place."""
    asked, work = options(tmp_path, trials=2), tmp_path / "w"
    run_search(asked, FormulaTrainer(work), compile_by_formula, device())
    row = json.loads((tmp_path / "run.json").read_text())
    named = " ".join(["canao", *row.pop("place").values()])
    (tmp_path / "run.json").write_text(json.dumps(row))
    with sqlite3.connect(tmp_path / "study.db") as studies:
        done = studies.execute("UPDATE studies SET study_name = 'canao' WHERE study_name = ?",
                               (named,))  # fmt: skip
        assert done.rowcount == 1
    assert sum(trial.trained for trial in read_trials(tmp_path)) == 2
    events: list[Event] = []
    run_search(asked, FormulaTrainer(work), compile_by_formula, device(), events.append)
    assert events[0].text.startswith("resuming after an earlier version of CANAO: timings")


def test_two_searches_cannot_share_a_directory(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match="another search is running in it"):
        run_search(options(tmp_path), FormulaTrainer(tmp_path), compile_by_formula, device())


def test_damaged_study_is_refused(tmp_path: Path) -> None:
    run_search(
        options(tmp_path, trials=1), FormulaTrainer(tmp_path / "w"), compile_by_formula, device()
    )
    (tmp_path / "study.db").write_bytes(b"not a database, but long enough to be looked at" * 99)
    with pytest.raises(InputError, match="cannot be used as a study"):
        run_search(options(tmp_path), FormulaTrainer(tmp_path / "w"), compile_by_formula, device())


def test_impossible_budget_stops_before_any_training(tmp_path: Path) -> None:
    trainer = FormulaTrainer(tmp_path / "w")
    said = r"the smallest .* L1 H32 A1 F128, takes 0\.10\d+ of 0\.05 ms"
    with pytest.raises(BudgetError, match=said):
        run_search(options(tmp_path, budget_ms=0.05), trainer, compile_by_formula, device())
    assert trainer.asked == []


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf"), True, "8"])
def test_budget_must_be_a_number_over_zero(tmp_path: Path, budget: object) -> None:
    with pytest.raises(InputError, match="budget"):
        options(tmp_path, budget_ms=budget)


@pytest.mark.parametrize(
    "change",
    [{"trials": 0}, {"search_samples": 0}, {"max_minutes": -1.0}, {"seed": -1},
     {"controller": "ppo"}, {"percentile": 101.0}, {"finalists": 0}],
)  # fmt: skip
def test_options_are_checked(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        options(tmp_path, **change)


def test_time_limit_ends_the_search(tmp_path: Path) -> None:
    asked = options(tmp_path, trials=50, max_minutes=1e-9)
    result = run_search(asked, FormulaTrainer(tmp_path / "w"), compile_by_formula, device())
    assert sum(trial.trained for trial in result.trials) <= 1


def diverging(count: int) -> None:
    if count == 1:
        raise DivergedError("training diverged at step 3; give a smaller rate")


def test_a_proxy_training_that_diverges_is_a_failed_trial(tmp_path: Path) -> None:
    """With the same seed it would again: the search goes on without it, and so when resumed."""
    trainer = FormulaTrainer(tmp_path / "w", on_proxy=diverging)
    result = run_search(options(tmp_path), trainer, compile_by_formula, device())
    (failed,) = (trial for trial in result.trials if trial.verdict == FAILED)
    assert failed.arch == trainer.asked[0][1] and "diverged at step 3" in failed.reason
    assert failed.accuracy is None and result.arch != failed.arch
    again = FormulaTrainer(tmp_path / "w")
    run_search(options(tmp_path), again, compile_by_formula, device())
    assert ("proxy", failed.arch) not in again.asked


def test_where_every_proxy_training_diverges_the_search_ends(tmp_path: Path) -> None:
    trainer = FormulaTrainer(tmp_path / "w", on_proxy=lambda _: diverging(1))
    with pytest.raises(DivergedError, match=r"candidates in a row that failed: .*at step 3"):
        run_search(options(tmp_path), trainer, compile_by_formula, device())


def test_after_a_full_training_that_diverges_the_next_takes_its_turn(tmp_path: Path) -> None:
    trainer = FormulaTrainer(tmp_path / "w", on_finish=diverging)
    said: list[str] = []
    result = run_search(options(tmp_path), trainer, compile_by_formula, device(),
                        progress=lambda event: said.append(event.text))  # fmt: skip
    finished = [arch for kind, arch in trainer.asked if kind == "finish"]
    assert len(finished) == 2 and result.arch == finished[1]
    assert any(f"{finished[0]}: training diverged at step 3" in line for line in said)


def test_where_every_full_training_diverges_no_budget_is_said_to_be_missed(tmp_path: Path) -> None:
    trainer = FormulaTrainer(tmp_path / "w", on_finish=lambda _: diverging(1))
    with pytest.raises(DivergedError, match="diverged at step 3"):
        run_search(options(tmp_path), trainer, compile_by_formula, device())
    assert trainer.count("finish") == 3


def slower_when_finished(factor: Callable[[Arch], float], trainer: FormulaTrainer) -> NullDevice:
    """A device on which libraries of finished students take longer than their skeletons did."""

    def latency(arch: Arch) -> float:
        finished = ("finish", arch) in trainer.asked
        return latency_ms(arch) * (factor(arch) if finished else 1.0)

    return device(latency)


def test_next_candidate_takes_its_turn_after_a_miss(tmp_path: Path) -> None:
    trainer = FormulaTrainer(tmp_path / "w")
    misses: list[Arch] = []

    def factor(arch: Arch) -> float:
        if not misses or arch in misses:
            misses.append(arch)
            return 100.0
        return 1.0

    slow = slower_when_finished(factor, trainer)
    result = run_search(options(tmp_path), trainer, compile_by_formula, slow)
    finished = [arch for kind, arch in trainer.asked if kind == "finish"]
    assert len(finished) == 2 and finished[0] == misses[0]
    assert result.arch == finished[1]
    # A hundredfold slowdown leaves nobody in front: the order by accuracy remains.
    ranked = sorted((t for t in result.trials if t.trained), key=lambda t: -(t.accuracy or 0))
    assert finished == [trial.arch for trial in ranked[:2]]


def test_after_a_miss_those_with_slack_go_first(tmp_path: Path) -> None:
    trainer = FormulaTrainer(tmp_path / "w")
    asked = options(tmp_path, trials=8)
    slow = slower_when_finished(lambda arch: 1.6, trainer)
    result = run_search(asked, trainer, compile_by_formula, slow)
    assert result.certificate.measured_ms == pytest.approx(1.6 * latency_ms(result.arch))
    finished = [arch for kind, arch in trainer.asked if kind == "finish"]
    assert len(finished) == 2
    assert latency_ms(finished[0]) * 1.6 > asked.budget_ms


def test_when_every_library_misses_the_front_is_named(tmp_path: Path) -> None:
    trainer = FormulaTrainer(tmp_path / "w")
    asked = options(tmp_path, finalists=2)
    slow = slower_when_finished(lambda arch: 1000.0, trainer)
    with pytest.raises(BudgetError, match="nearest points measured in the search: L") as raised:
        run_search(asked, trainer, compile_by_formula, slow)
    assert trainer.count("finish") == 2
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "artifact").exists()


def test_a_busy_moment_costs_no_candidate(tmp_path: Path) -> None:
    """Every second measurement of the search takes ten times as long; none is rejected for that."""
    asked, calls = options(tmp_path), 0

    class Busy(NullDevice):
        def measure(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
            nonlocal calls
            found = super().measure(artifact, config)
            if config.samples != asked.search_samples:  # of a certificate, which is not repeated
                return found
            calls += 1
            slow = 10.0 if calls % 2 else 1.0
            assert isinstance(found, Timing)
            return replace(found, samples_ms=tuple(slow * ms for ms in found.samples_ms))

    plain = device()
    busy = Busy(plain._script, kernels=plain._kernels)
    result = run_search(asked, FormulaTrainer(tmp_path / "w"), compile_by_formula, busy)
    assert calls >= 2 * asked.trials  # so it was busy, and everything was measured again
    over = [trial.arch for trial in result.trials if trial.verdict == MEASURED_OVER]
    assert all(latency_ms(arch) > 0.9 * asked.budget_ms for arch in over)
    assert result.certificate.measured_ms == pytest.approx(latency_ms(result.arch))


def test_device_that_fails_throughout_is_given_up(tmp_path: Path) -> None:
    class Broken(NullDevice):
        def measure(self, artifact, config):  # type: ignore[no-untyped-def]
            if arch_of(artifact) in (TEACHER, Arch.uniform(1, 32, 1, 128)):
                return super().measure(artifact, config)
            return Failure("load", "no such file")

    broken = Broken(
        lambda artifact: latency_ms(arch_of(artifact)),
        kernels=lambda artifact: kernel_times(arch_of(artifact)),
    )
    trainer = FormulaTrainer(tmp_path / "w")
    asked = options(tmp_path, budget_ms=0.9 * latency_ms(TEACHER))
    with pytest.raises(DeviceError, match=r"3 libraries in a row .* load: no such file"):
        run_search(asked, trainer, compile_by_formula, broken)
    assert trainer.count("proxy") == 0
    assert [trial.verdict for trial in read_trials(tmp_path)].count(FAILED) == 3


def test_trial_survives_its_json_form() -> None:
    trial = Trial(TEACHER, TRAINED, -0.25, accuracy=accuracy(TEACHER), metrics={"f1": 0.5})
    assert Trial.from_json(trial.to_json()) == trial
    assert json.loads(trial.to_json())["arch"]["layers"] == 6
    with pytest.raises(InputError, match="cannot be read"):
        Trial.from_json('{"arch": 3}')


def test_trials_of_earlier_versions_are_read() -> None:
    """A journal from before a field was renamed goes on."""
    row = json.loads(Trial(TEACHER, TRAINED, -0.25, operators=163, kernels=34).to_json())
    old = row | {"layers_before": row.pop("operators"), "layers_after": row.pop("kernels")}
    assert Trial.from_json(json.dumps(old)) == Trial(TEACHER, TRAINED, -0.25, operators=163,
                                                     kernels=34)  # fmt: skip
