"""Compare the controllers on a made-up landscape, where a trial costs nothing.

    python benchmarks/controllers.py [--proposals 60] [--seeds 8] [--only gp] [--budget 0.2]
    python benchmarks/controllers.py --searches 16 [--seeds 8] [--only gp] [--budget 0.2]

Prints the tables of docs/search.md: of samplers alone, and with --searches of whole searches of so
many trials. Accuracy and latency are smooth formulas of the architecture
(tests/search/landscape.py), so the tables say nothing about real tasks.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from canao.search.candidates.space import Space  # noqa: E402
from canao.search.controllers.controller import LATENCY, NAMES, objectives  # noqa: E402
from canao.search.controllers.samplers import make_controller  # noqa: E402
from tests.search.landscape import (  # noqa: E402
    TEACHER,
    FormulaTrainer,
    accuracy,
    compile_by_formula,
    device,
    latency_ms,
    options,
    run_search,
)

SPACE = Space.of_teacher(TEACHER)
FLOOR = 0.4  # told for what is over the budget


def propose(controller: str, seed: int, proposals: int, budget_ms: float) -> np.ndarray:
    """Accuracy of each proposal, FLOOR for those over the budget; shape [proposals]."""
    study = optuna.create_study(
        directions=list(objectives(controller)), sampler=make_controller(controller, SPACE, seed)
    )
    found = []
    for _ in range(proposals):
        trial = study.ask(SPACE.distributions())
        arch = SPACE.decode(trial.params)
        ms = latency_ms(arch)
        trial.set_constraint(LATENCY, ms / budget_ms - 1)
        found.append(accuracy(arch) if ms <= budget_ms else FLOOR)
        study.tell(trial, [found[-1], ms] if len(study.directions) > 1 else found[-1])
    return np.array(found)


def whole_search(
    controller: str, seed: int, trials: int, budget_ms: float
) -> tuple[float, float]:
    """Accuracy of the student that a search ends with, and what it takes of the budget."""
    with tempfile.TemporaryDirectory() as folder:
        asked = options(
            Path(folder) / "run", trials=trials, controller=controller, seed=seed,
            budget_ms=budget_ms,
        )  # fmt: skip
        trainer = FormulaTrainer(Path(folder) / "work")
        found = run_search(asked, trainer, compile_by_formula, device())
        return accuracy(found.arch), found.certificate.measured_ms / budget_ms


def print_searches(only: Sequence[str], trials: int, seeds: int, budgets: Sequence[float]) -> None:
    print(f"| budget | controller | student of {trials} trials, short of the optimum "
          "| budget used |\n|---|---|---|---|")  # fmt: skip
    for share in budgets:
        budget, best = _budget(share)
        for controller in only:
            found = [whole_search(controller, seed, trials, budget) for seed in range(seeds)]
            values, used = np.array(found).T
            print(f"| {share:.0%} | {controller} | {best - values.mean():.4f} "
                  f"± {values.std():.4f} | {used.mean():.0%} |", flush=True)  # fmt: skip


def _budget(share: float) -> tuple[float, float]:
    """Milliseconds of a budget, and the accuracy of the best architecture that keeps it."""
    budget = share * latency_ms(TEACHER)
    return budget, max(accuracy(arch) for arch in SPACE if latency_ms(arch) <= budget)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proposals", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--budget", nargs="+", type=float, default=[0.2, 0.05],
                        help="shares of the teacher's latency")  # fmt: skip
    parser.add_argument("--searches", type=int, metavar="TRIALS", help="whole searches")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    if given.searches:
        print_searches(given.only, given.searches, given.seeds, given.budget)
        return
    print(f"| budget | controller | best of {given.proposals}, short of the optimum "
          "| last quarter: within budget | and its mean accuracy |")  # fmt: skip
    print("|---|---|---|---|---|")
    for share in given.budget:
        budget, optimum = _budget(share)
        for controller in given.only:
            rows = np.array([propose(controller, seed, given.proposals, budget)
                             for seed in range(given.seeds)])  # fmt: skip
            late = rows[:, -(given.proposals // 4) :]
            within = late > FLOOR
            print(f"| {share:.0%} | {controller} | {optimum - rows.max(axis=1).mean():.4f} "
                  f"± {rows.max(axis=1).std():.4f} | {within.mean():.0%} "
                  f"| {late[within].mean():.4f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
