"""The upper bound of a latency: what it is, and that a candidate has to pass it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from canao.artifact.certificate_file import load_certificate
from canao.artifact.directory import Artifact
from canao.artifact.measured import Others, percentile, upper_bound
from canao.device.base import Timing
from canao.device.null import NullDevice
from canao.errors import BudgetError, DeviceError, InputError
from canao.model.arch import Arch
from canao.report.write import write_report
from canao.search import Event, SearchResult
from tests.search.landscape import (
    FormulaTrainer,
    arch_of,
    compile_by_formula,
    kernel_times,
    latency_ms,
    options,
    run_search,
)


@pytest.mark.parametrize("q", [50, 90, 95, 99])
@pytest.mark.parametrize("n", [1, 16, 128, 1024, 5000])
def test_it_is_the_order_statistic_of_the_binomial(n: int, q: float) -> None:
    """The smallest k of which so many samples or more are below the percentile in at most 5 of 100
    cases; the last where that is true of none."""
    found = upper_bound(list(range(n, 0, -1)), q)
    fitting = [k for k in range(1, n + 1) if binom.sf(k - 1, n, q / 100) <= 0.05]
    assert found == (fitting[0] if fitting else n)
    assert found >= percentile(range(1, n + 1), q)


def test_it_is_as_sure_as_it_says() -> None:
    """Of lognormal samples, whose percentile is known: over it in 95 % of cases, and by little."""
    random = np.random.default_rng(0)
    true = float(np.exp(0.1 * 1.2815515655446004))
    bounds = [upper_bound(np.exp(0.1 * random.standard_normal(256)).tolist(), 90)
              for _ in range(1000)]  # fmt: skip
    assert 0.94 < np.mean(np.array(bounds) >= true) < 0.99
    assert np.median(bounds) < 1.05 * true


def test_the_whole_range_and_beyond() -> None:
    assert upper_bound([3.0, 1.0, 2.0], 100) == 3.0 and upper_bound([1.0] * 1024, 90) == 1.0
    for q in (0, 101):
        with pytest.raises(InputError, match="outside"):
            upper_bound([1.0], q)


class Spread(NullDevice):
    """Under the full protocol 20 of the 205 samples of each process take longer, by 5 % unless
    `slow` says more, which the 90th percentile does not tell and its upper bound does: of all
    libraries, or of the first that is measured so.
    """

    def __init__(self, *, of_all: bool, slow: float = 1.05, others: Sequence[Others] = ()) -> None:
        super().__init__(
            lambda artifact: latency_ms(arch_of(artifact)),
            kernels=lambda artifact: kernel_times(arch_of(artifact)), others=others,
        )  # fmt: skip
        self.of_all, self.slow = of_all, slow
        self.first: Arch | None = None

    def measure(self, artifact: Artifact, config: Any) -> Any:
        found = super().measure(artifact, config)
        assert isinstance(found, Timing)
        if config.samples != 205:
            return found
        self.first = self.first or arch_of(artifact)
        if not self.of_all and arch_of(artifact) != self.first:
            return found
        samples = (*(self.slow * s for s in found.samples_ms[:20]), *found.samples_ms[20:])
        return replace(found, samples_ms=samples)


def search(
    run_dir: Path, device: Spread, **changes: Any
) -> tuple[SearchResult, FormulaTrainer, list[str]]:
    events: list[Event] = []
    trainer = FormulaTrainer(run_dir.parent / "w")
    asked = options(run_dir, trials=6, controller="random", **changes)
    found = run_search(asked, trainer, compile_by_formula, device, events.append)
    return found, trainer, [event.text for event in events]


def test_what_passes_by_its_percentile_alone_is_not_trained(tmp_path: Path) -> None:
    """It would be missed by noise. The nearest whose upper bound keeps the budget is trained."""
    device = Spread(of_all=False)
    found, trainer, said = search(tmp_path / "run", device)
    first, budget = device.first, found.certificate.budget_ms
    assert first is not None and latency_ms(first) <= budget < 1.05 * latency_ms(first)
    told = [text for text in said if text.startswith(f"{first} misses a budget with")]
    assert len(told) == 1 and f"measured are {latency_ms(first):.4g} ms" in told[0]
    assert "95 % confidence" in told[0]
    assert {arch for kind, arch in trainer.asked if kind == "finish"} == {found.arch} != {first}
    assert any(f"the nearest to {first} that should fit" in text for text in said)


def test_reports_have_the_bound(tmp_path: Path) -> None:
    """Beside what was predicted and measured."""
    found, _, _ = search(tmp_path / "run", Spread(of_all=True))
    certificate = load_certificate(found.artifact)
    assert certificate.bound_ms == pytest.approx(1.05 * certificate.measured_ms)
    assert certificate.bound_ms <= certificate.budget_ms
    page = write_report(tmp_path / "run").read_text()
    assert f"{certificate.bound_ms:.4g} ms" in page and "at most, with 95% confidence" in page
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["certified_at_most_ms"] == pytest.approx(1.05 * summary["certified_ms"])
    table = (tmp_path / "run" / "trials.csv").read_text().splitlines()
    assert "latency_ms,bound_ms,median_ms" in table[0]
    assert all(trial.bound_ms for trial in found.trials if trial.latency_ms)


def test_where_no_upper_bound_keeps_the_budget(tmp_path: Path) -> None:
    """Nothing is trained in full, no repair is near, and the line names the nearest points."""
    trainer = FormulaTrainer(tmp_path / "w")
    asked = options(tmp_path / "run", trials=2, controller="random")
    with pytest.raises(BudgetError, match="no finished library kept"):
        run_search(asked, trainer, compile_by_formula, Spread(of_all=True, slow=99.0))
    assert trainer.count("finish") == 0 and trainer.count("proxy") == 2


def test_an_upper_bound_is_not_judged_beside_others(tmp_path: Path) -> None:
    """They may be what took it over the budget."""
    busy = Others({0: 0.4}, used=(0,), waited=0.1)
    trainer = FormulaTrainer(tmp_path / "w")
    asked = options(tmp_path / "run", trials=2, controller="random", pauses_s=(0.0, 0.0))
    with pytest.raises(DeviceError, match="was disturbed, in 10 processes"):
        run_search(
            asked, trainer, compile_by_formula, Spread(of_all=True, slow=99.0, others=[busy])
        )
    assert trainer.count("finish") == 0
