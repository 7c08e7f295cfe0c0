"""Budgets besides that of latency: of size and memory, and a least score."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canao.artifact.budgets import size_of
from canao.artifact.directory import Artifact
from canao.cli.printing import print_result
from canao.device.base import Timing
from canao.device.null import NullDevice
from canao.errors import BudgetError, InputError
from canao.model.arch import Arch
from canao.report.write import write_report
from canao.search import Event
from canao.search.candidates.budgets import Budgets
from canao.search.candidates.trial import Trial
from canao.search.evaluation import Evaluator
from canao.search.options import Finished
from canao.train.options import TrainOptions
from tests.search.landscape import (
    FormulaTrainer,
    accuracy,
    arch_of,
    compile_by_formula,
    device,
    kernel_times,
    kernels_by_formula,
    latency_ms,
    options,
    run_search,
)


def weight_of(arch: Arch) -> int:
    """Bytes of a library: 20,000 for each FFN unit."""
    return 20_000 * sum(block.ffn for block in arch.blocks)


def compile_with_weights(model_dir: Path, out: Path) -> Artifact:
    """The artifact of the formula, with a sparse file as large as its architecture's weights."""
    artifact = compile_by_formula(model_dir, out)
    with open(out / "extra.bin", "wb") as file:
        file.truncate(weight_of(arch_of(artifact)))
    return artifact


class Hungry(NullDevice):
    """Its libraries take a megabyte of memory for each kernel that runs."""

    def measure(self, artifact: Artifact, config: Any) -> Any:
        found = super().measure(artifact, config)
        assert isinstance(found, Timing)
        return replace(found, peak_bytes=1_000_000 * len(kernel_times(arch_of(artifact))))


HUNGRY = Hungry(
    lambda artifact: latency_ms(arch_of(artifact)),
    kernels=lambda artifact: kernel_times(arch_of(artifact)),
)


def test_all_budgets_are_kept(tmp_path: Path) -> None:
    """Without them, the student is larger and takes more memory."""
    asked = options(tmp_path / "free", trials=8)
    trainer = FormulaTrainer(tmp_path / "w")
    free = run_search(asked, trainer, compile_with_weights, HUNGRY)
    size, kernels = weight_of(free.arch) / 1e6, len(kernel_times(free.arch))
    bound = options(
        tmp_path / "bound", trials=8, size_mb=0.7 * size, memory_mb=kernels - 1.0,
        min_accuracy=0.5,
    )  # fmt: skip
    found = run_search(bound, trainer, compile_with_weights, HUNGRY)
    assert size_of(found.artifact) <= 0.7e6 * size < size_of(free.artifact)
    assert found.certificate.peak_bytes <= 1e6 * (kernels - 1)
    assert found.certificate.measured_ms <= asked.budget_ms and found.score.value >= 0.5
    trained = [trial for trial in found.trials if trial.trained]
    assert all(trial.size_bytes <= 0.7e6 * size for trial in trained if trial.size_bytes)
    over = [trial.reason for trial in found.trials if trial.verdict == "measured over"]
    assert any(f"of {0.7 * size:g} MB" in reason for reason in over)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"size_mb": 1.0}, r"takes 2\.5\d* of 1 MB .*give --size-mb 2\.6\d* or more"),
        ({"memory_mb": 2.5}, r"takes 7 of 2\.5 MB of memory .*give --memory-mb 7\.35 or more"),
        ({"budget_ms": 0.01, "size_mb": 1.0}, r"--budget-ms 0\.\d+ and --size-mb 2"),
    ],
)
def test_what_no_student_keeps_is_said_at_once(
    limits: dict[str, float], words: str, tmp_path: Path
) -> None:
    trainer = FormulaTrainer(tmp_path / "w")
    with pytest.raises(BudgetError, match=words) as raised:
        run_search(options(tmp_path / "run", **limits), trainer, compile_with_weights, HUNGRY)
    assert "\n" not in str(raised.value) and trainer.count("proxy") == 0


def test_a_score_that_no_student_has(tmp_path: Path) -> None:
    """Three are trained in full; the line says what each came to. With a floor between them, one
    that keeps it is found, and with another floor the same run goes on."""
    asked, events = options(tmp_path / "run", trials=6, min_accuracy=0.95), list[Event]()
    trainer = FormulaTrainer(tmp_path / "w")
    with pytest.raises(BudgetError, match="no finished library kept") as raised:
        run_search(asked, trainer, compile_by_formula, device(), events.append)
    said = str(raised.value)
    assert said.count("least is 0.95") == trainer.count("finish") == asked.finalists
    assert "nearest points measured in the search" in said and "\n" not in said
    assert not (tmp_path / "run" / "artifact").exists()
    assert sum("misses a budget with a score" in event.text for event in events) == asked.finalists
    again = replace(asked, min_accuracy=0.6)
    assert run_search(again, trainer, compile_by_formula, device()).score.value >= 0.6


def test_the_first_that_keeps_the_score_is_taken(tmp_path: Path) -> None:
    """The best by proxy score scores less in the end than the second."""
    asked = options(tmp_path / "run", trials=6)
    first = run_search(asked, FormulaTrainer(tmp_path / "w"), compile_by_formula, device())

    class Worse(FormulaTrainer):
        def finish(self, arch: Arch) -> Any:
            found = super().finish(arch)
            if arch != first.arch:
                return found
            return replace(found, score=replace(found.score, metrics={"accuracy": 0.1, "f1": 0.1}))

    bound = options(tmp_path / "bound", trials=6, min_accuracy=accuracy(first.arch) - 0.2)
    second = run_search(bound, Worse(tmp_path / "w2"), compile_by_formula, device())
    assert second.arch != first.arch and second.score.value > 0.1


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"size_mb": 0.0}, "size_mb is 0; give megabytes above 0"),
        ({"memory_mb": float("nan")}, "memory_mb is nan"),
        ({"min_accuracy": 90.0}, r"min_accuracy is 90; give a value of the metric, such as 0\.9"),
    ],
)
def test_limits_that_cannot_be(limits: dict[str, float], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        options(tmp_path, **limits)


def test_the_budget_that_is_missed_most_counts() -> None:
    budgets = Budgets(2.0, size_mb=10.0, memory_mb=50.0)
    assert budgets.excess(1.0, 5_000_000, 20_000_000) == pytest.approx(-0.5)
    assert budgets.excess(3.0, 20_000_000, 20_000_000) == pytest.approx(1.0)
    assert budgets.missed(3.0, 20_000_000, 20_000_000) == "3 of 2 ms, 20 of 10 MB"
    assert budgets.missed(1.0, 1, 60_000_000) == "60 of 50 MB of memory"
    assert str(budgets) == "2 ms, 10 MB, 50 MB of memory"


def test_larger_ones_are_expected_to_miss_a_size(tmp_path: Path) -> None:
    """By their weights, four bytes each in float32 and one in int8; of budgets the one that is used
    most counts."""
    near = Arch.uniform(2, 192, 6, 512)
    asked = options(tmp_path / "run", size_mb=10.0)
    trial = Trial(near, "trained", -0.1, latency_ms=1.0, predicted_ms=1.0, size_bytes=9_000_000,
                  peak_bytes=20_000_000)  # fmt: skip
    for precision, each in (("float32", 4), ("int8", 1)):
        given = replace(asked, training=TrainOptions(precision=precision))
        judge = Evaluator(given, FormulaTrainer(tmp_path / "w"), compile_by_formula, HUNGRY,
                          kernels_by_formula)  # fmt: skip
        wider = Arch.uniform(2, 192, 6, 1024)
        more = each * 2 * 2 * 192 * 512
        share = (9_000_000 + more) / 10_000_000
        ms = judge.expected(wider, trial)
        assert ms == pytest.approx(max(share * asked.budget_ms, judge._expected_ms(wider, trial)))
    assert judge.expected(near, trial) == pytest.approx(0.9 * asked.budget_ms)


def test_what_scored_too_little_is_not_finished_again(tmp_path: Path) -> None:
    """With more trials the same command tries others, and names them all in the end."""
    asked = options(tmp_path / "run", trials=4, min_accuracy=0.95, finalists=2)
    trainer = FormulaTrainer(tmp_path / "w")
    with pytest.raises(BudgetError, match="lower --min-accuracy"):
        run_search(asked, trainer, compile_by_formula, device())
    first = {arch for kind, arch in trainer.asked if kind == "finish"}
    again = FormulaTrainer(tmp_path / "w")
    with pytest.raises(BudgetError, match=r"least is 0\.95.*least is 0\.95.*least is 0\.95"):
        run_search(replace(asked, trials=6), again, compile_by_formula, device())
    second = {arch for kind, arch in again.asked if kind == "finish"}
    assert len(first) == 2 and second and not first & second


_OVER = 50_000  # bytes by which a budget is missed


def grown(limit_mb: float) -> Any:
    """Finished libraries larger than their skeletons: by as much as takes the first over the limit
    by 50 kB."""
    more: list[int] = []

    def finish(model_dir: Path, out: Path, say: Any) -> Finished:
        artifact = compile_by_bytes(model_dir, out)
        if not more:
            more.append(int(1e6 * limit_mb) - size_of(artifact) + _OVER)
        with open(out / "more.bin", "wb") as file:
            file.truncate(more[0])
        return Finished(artifact)

    return finish


def test_a_miss_of_the_size_is_repaired(tmp_path: Path) -> None:
    """The finished library of the best is too large: the nearest that should fit is finished next,
    and it fits."""
    asked, events = options(tmp_path / "run", trials=6, size_mb=8.0), list[Event]()
    trainer = FormulaTrainer(tmp_path / "w")
    found = run_search(asked, trainer, compile_by_bytes, HUNGRY, events.append, grown(8.0))
    finished = [arch for kind, arch in trainer.asked if kind == "finish"]
    said = [event.text for event in events]
    over = f"{finished[0]} misses a budget with {8.0 + _OVER / 1e6:.4g} of 8 MB"
    assert over in said
    assert f"trying {found.arch}, the nearest to {finished[0]} that should fit" in said
    assert finished == [finished[0], found.arch] and found.arch.no_larger_than(finished[0])
    assert 7.5e6 < found.size_bytes <= 8e6


class Hungrier(NullDevice):
    """Its libraries take four bytes of memory for each weight of their layers, and ten megabytes
    beside them; under the full protocol as much more as takes the first over the limit by 50 kB."""

    def __init__(self, limit_mb: float) -> None:
        super().__init__(
            lambda artifact: latency_ms(arch_of(artifact)),
            kernels=lambda artifact: kernel_times(arch_of(artifact)),
        )
        self.limit_mb, self.more = limit_mb, 0

    def measure(self, artifact: Artifact, config: Any) -> Any:
        found = super().measure(artifact, config)
        own = 10_000_000 + 4 * arch_of(artifact).weights()
        if config.samples == 16:  # of the search
            return replace(found, peak_bytes=own)
        self.more = self.more or int(1e6 * self.limit_mb) - own + _OVER
        return replace(found, peak_bytes=own + self.more)


def test_memory_that_the_full_protocol_takes_is_repaired(tmp_path: Path) -> None:
    """Before anything is trained in full. The repair takes its turn by its proxy score."""
    asked, events = options(tmp_path / "run", trials=6, memory_mb=18.0), list[Event]()
    trainer = FormulaTrainer(tmp_path / "w")
    found = run_search(asked, trainer, compile_by_bytes, Hungrier(18.0), events.append)
    said = [event.text for event in events]
    over = [text for text in said if "misses a budget with 18.05 of 18 MB of memory" in text]
    assert len(over) == 1
    first = over[0].partition(" misses")[0]
    tried = [text for text in said if f", the nearest to {first} that should fit" in text]
    near = Arch.parse(tried[0].removeprefix("trying ").partition(",")[0])
    judged = {trial.arch: trial for trial in found.trials}
    assert len(tried) == 1 and near.no_larger_than(Arch.parse(first)) and judged[near].trained
    assert [arch for kind, arch in trainer.asked if kind == "finish"] == [found.arch]
    assert found.certificate.peak_bytes <= 18e6


def test_blocks_are_chosen_within_all_budgets(tmp_path: Path) -> None:
    """By ziplm: each choice keeps the size, of which those by latency alone have more."""

    def chosen(name: str, **limits: float) -> list[Trial]:
        asked = options(tmp_path / name, trials=8, controller="ziplm", **limits)
        found = run_search(
            asked, FormulaTrainer(tmp_path / "w"), compile_by_bytes, HUNGRY
        )  # fmt: skip
        return [trial for trial in found.trials if not trial.arch.is_uniform][:4]

    free = chosen("free")
    limit = 0.8 * max(trial.size_bytes or 0 for trial in free) / 1e6
    bound = chosen("bound", size_mb=limit)
    assert any((trial.size_bytes or 0) > 1e6 * limit for trial in free)
    kept = [trial for trial in bound if trial.trained]
    assert len(kept) >= 3
    assert max(trial.size_bytes or 0 for trial in kept) > 0.9e6 * limit
    assert all((trial.size_bytes or 0) <= 1e6 * limit for trial in kept)


def compile_by_bytes(model_dir: Path, out: Path) -> Artifact:
    """The artifact of the formula, with a sparse file of four bytes for each weight of its layers
    and half a megabyte for the rest."""
    artifact = compile_by_formula(model_dir, out)
    with open(out / "extra.bin", "wb") as file:
        file.truncate(500_000 + 4 * arch_of(artifact).weights())
    return artifact


def test_the_room_that_is_left() -> None:
    budgets = Budgets(2.0, size_mb=10.0, memory_mb=50.0)
    assert budgets.room(4_000_000, 49_000_000) == pytest.approx(1e6)
    assert budgets.room(11_000_000, 0) == pytest.approx(-1e6)
    assert Budgets(2.0).room(1, 1) == float("inf")


def test_all_budgets_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the page, in the summary and in what is printed, the least score as well; which may change
    when the run is resumed, and then the new one is told."""
    trainer = FormulaTrainer(tmp_path / "w")
    asked = options(tmp_path / "run", trials=4, size_mb=60.0, memory_mb=40.0, min_accuracy=0.99)
    with pytest.raises(BudgetError, match=r"a score of 0\.99"):
        run_search(asked, trainer, compile_with_weights, HUNGRY)
    assert "<dt>least score</dt><dd>0.99</dd>" in write_report(tmp_path / "run").read_text()
    found = run_search(
        replace(asked, min_accuracy=0.5), trainer, compile_with_weights, HUNGRY
    )  # fmt: skip
    page = write_report(tmp_path / "run")
    assert "<dt>least score</dt><dd>0.5</dd>" in page.read_text()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["min_accuracy"] == 0.5 and summary["size_mb"] == 60.0
    print_result(found, page)
    printed = " ".join(capsys.readouterr().out.split())
    size, score = found.size_bytes / 1e6, found.score.value
    assert f"{size:.4g} of 60 MB" in printed and f"a score of {score:.4f}, least is 0.5" in printed
    assert "of 40 MB of memory" in printed and "at most, with 95% confidence" in printed


def test_a_raised_least_score_is_not_reported_as_kept(tmp_path: Path) -> None:
    """The library is certified for the latency, and misses what is asked for now."""
    trainer, asked = FormulaTrainer(tmp_path / "w"), options(tmp_path / "run", min_accuracy=0.5)
    found = run_search(asked, trainer, compile_with_weights, HUNGRY)
    page = write_report(tmp_path / "run").read_text()
    assert "certified on null" in page
    with pytest.raises(BudgetError, match=r"least is 0\.99"):
        run_search(replace(asked, min_accuracy=0.99), trainer, compile_with_weights, HUNGRY)
    page = write_report(tmp_path / "run").read_text()
    assert f"missed: a score of {found.score.value:.4f}, least is 0.99" in page
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["state"], summary["certified_ms"]) == ("missed", None)
