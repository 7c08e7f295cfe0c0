"""Why a search ended as it did, in sentences: each count and each name follows from the trials."""

from __future__ import annotations

from pathlib import Path

from canao.model.arch import Arch
from canao.report.why import why
from canao.report.write import write_report
from canao.search.candidates.trial import DOMINATED, MEASURED_OVER, PREDICTED_OVER, TRAINED, Trial
from tests.search.landscape import FormulaTrainer, compile_by_formula, device, options, run_search

ONE, TWO, THREE, FOUR = (Arch.uniform(n, 32, 2, 64) for n in (1, 2, 3, 4))
FACTS = {"budget_ms": 4.0, "training.ranker": "supernet"}
TRIALS = (
    Trial(ONE, TRAINED, -0.5, accuracy=0.7, latency_ms=2.0),
    Trial(TWO, TRAINED, -0.25, accuracy=0.8, latency_ms=3.0),
    Trial(THREE, MEASURED_OVER, 0.1, latency_ms=4.4, reason="4.4 ms"),
    Trial(FOUR, MEASURED_OVER, 0.5, latency_ms=6.0, reason="6 ms"),
    Trial(Arch.uniform(5, 32, 2, 64), DOMINATED, 0.5),
    Trial(Arch.uniform(6, 32, 2, 64), PREDICTED_OVER, 0.9, predicted_ms=7.0),
)


def test_the_best_one() -> None:
    assert why(TWO, TRIALS, FACTS, None) == (
        "6 architectures were judged. 4 were left out before any training: 1 no smaller than one "
        "that missed a budget, 1 too slow by the latency table, 2 measured over a budget; 2 kept "
        "the budgets and were ranked.",
        f"{TWO} ranked best: it scored 0.8000 as a part of the supernet, {ONE}, the next one, "
        "0.7000.",
        "Its library uses 75% of the latency budget.",
        f"Nearest to the budgets, and over one of them, was {THREE}: 4.4 ms.",
    )


def test_one_that_took_the_place_of_another() -> None:
    told = why(ONE, TRIALS, FACTS | {"training.ranker": "short"}, None)
    assert told[1] == (
        f"{ONE} ranked number 2: it scored 0.7000 after a short distillation, {TWO}, the best one, "
        "0.8000."
    )
    assert told[2] == (
        "Those that ranked higher missed a budget when they were checked or finished, or were put "
        f"off because they came too near to it: {TWO}."
    )


def test_nothing_is_said_of_what_was_not_ranked() -> None:
    assert why(THREE, TRIALS, FACTS, None) == ()
    assert why(ONE, (), FACTS, None) == ()


def test_a_report_has_it(tmp_path: Path) -> None:
    asked = options(tmp_path / "run")
    result = run_search(asked, FormulaTrainer(tmp_path / "w"), compile_by_formula, device())
    page = write_report(tmp_path / "run").read_text()
    assert "Why this architecture" in page
    assert f"{result.arch} ranked" in page
    used = result.certificate.measured_ms / asked.budget_ms
    assert f"uses {used:.0%} of the latency budget" in page
