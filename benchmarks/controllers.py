"""Compare the controllers on a made-up landscape, where a trial costs nothing.

    python benchmarks/controllers.py [--proposals 60] [--seeds 8] [--only gp] [--budget 0.2]

Prints the table of docs/search.md. Accuracy and latency are smooth formulas of the architecture
(tests/search/landscape.py), so the table compares samplers and says nothing about real tasks.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import optuna
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from canao.search.controller import LATENCY, NAMES, objectives  # noqa: E402
from canao.search.samplers import make_controller  # noqa: E402
from canao.search.space import Space  # noqa: E402
from tests.search.landscape import TEACHER, accuracy, latency_ms  # noqa: E402

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proposals", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--budget", nargs="+", type=float, default=[0.2, 0.05],
                        help="shares of the teacher's latency")  # fmt: skip
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    print(f"| budget | controller | best of {given.proposals}, short of the optimum "
          "| last quarter: within budget | and its mean accuracy |")  # fmt: skip
    print("|---|---|---|---|---|")
    for share in given.budget:
        budget = share * latency_ms(TEACHER)
        optimum = max(accuracy(arch) for arch in SPACE if latency_ms(arch) <= budget)
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
