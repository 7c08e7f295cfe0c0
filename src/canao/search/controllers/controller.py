"""Controllers: who proposes the next architecture. Every one is an Optuna sampler.

    gp       Optuna's Gaussian process with constrained expected improvement
    tpe      Optuna's tree-structured Parzen estimator, multivariate
    nsga2    Optuna's NSGA-II on accuracy and latency at once
    policy   the paper's recurrent policy-gradient controller, in two phases
    ziplm    blocks that lose least of the teacher, by a dynamic program over the latency table
    random   the baseline that every other has to beat

This module is what a controller and its users agree on; samplers.py makes the samplers. How the
controllers compare is measured in docs/search.md.
"""

from __future__ import annotations

from typing import Literal

LATENCY = "latency"  # the constraint of every trial: latency/budget - 1
NAMES = ("gp", "tpe", "nsga2", "policy", "ziplm", "random")
BLOCKWISE = "ziplm"  # proposes what the dynamic program finds first, and then what gp does


def objectives(name: str) -> tuple[Literal["maximize", "minimize"], ...]:
    """Directions of the controller's study: accuracy, and for nsga2 latency as well."""
    return ("maximize", "minimize") if name == "nsga2" else ("maximize",)
