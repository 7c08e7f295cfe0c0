"""The samplers behind the controllers' names.

A study resumed in another process must continue as if it had never stopped, but Optuna's samplers
keep a random state in memory. `Replayed` therefore builds the sampler anew for each proposal,
from a seed that follows from the run's seed and the number of trials that were proposed before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from canao.errors import InputError
from canao.search.candidates.space import Space
from canao.search.controllers.controller import BLOCKWISE, NAMES
from canao.search.controllers.turns import proposed_before

_STARTUP = 8  # random proposals before a model is fitted: a search has tens of trials
_POPULATION = 10


def make_controller(name: str, space: Space, seed: int) -> BaseSampler:
    """The sampler called `name`; InputError for another name."""
    if name not in NAMES:
        raise InputError(f"controller '{name}' is not one of {', '.join(NAMES)}")
    if name == "policy":
        # Imported here because it loads torch, which reading a finished run does without.
        from canao.search.controllers.policy import PolicySampler

        return PolicySampler(space, seed)
    return Replayed(_FACTORIES[name], seed)


class Replayed(BaseSampler):
    """Another sampler, made anew from (seed, trials proposed before) before each proposal."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._sampler = make(seed % 2**32)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler = self._make(_derived(self._seed, proposed_before(study, trial)))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Any,
    ) -> None:
        self._sampler.after_trial(study, trial, state, values)


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(n_startup_trials=_STARTUP, multivariate=True, seed=seed)


def _gp(seed: int) -> BaseSampler:
    return GPSampler(n_startup_trials=_STARTUP, seed=seed)


def _nsga2(seed: int) -> BaseSampler:
    return NSGAIISampler(population_size=_POPULATION, seed=seed)


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


_FACTORIES: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    BLOCKWISE: _gp,
    "nsga2": _nsga2,
    "random": _random,
}


def _derived(seed: int, count: int) -> int:
    """A 32-bit seed for one proposal; hashed, so that neighbouring seeds share nothing."""
    digest = hashlib.sha256(f"{seed}:{count}".encode()).digest()
    return int.from_bytes(digest[:4], "little")
