"""The paper's controller: a recurrent policy trained by REINFORCE, as an Optuna sampler.

One LSTM emits the decisions of an architecture one after another (Zoph and Le 2017, "Neural
Architecture Search with Reinforcement Learning", section 3). The paper searches in two phases,
first the number of layers, then their sizes:

  depth   the first proposals decide `layers` only; the sizes stay at the teacher's.
  sizes   every size is decided. The depth is not frozen but leans towards the best one of the
          first phase, because a depth that was right for full-size layers can be too small for
          narrower ones.

The paper does not print its reward. This one has the two cases of its co-authors' hardware-aware
search (Jiang et al. 2019, "Accuracy vs. Efficiency", FNAS), with latency L, budget T, accuracy A
and b the moving average of A:

    R = (T - L)/T - 1     if L > T: nothing was trained
    R = (A - b)/s + L/T   if L <= T

s is the moving mean of |A - b|. FNAS has s = 1; but here A differs by hundredths between
candidates and L/T by tenths, and the policy would learn to fill the budget and nothing else
(measured: docs/search.md). The gradient is that of R less its own moving average.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor, nn

from canao.search.controller import LATENCY
from canao.search.space import Space

_WIDTH = 24  # of the LSTM state
_CENTRES = 6  # radial basis functions over the values of one parameter
_DECAY = 0.8  # of the moving averages
_RATE = 0.05  # of Adam
_ENTROPY = 0.3  # weight of the bonus that keeps the policy from settling early
_UNIFORM = 0.1  # share of proposals' decisions that are drawn uniformly
_DEPTH_LEAN = 0.2  # log-odds lost per layer away from the depth of the first phase


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a controller learns of one trial.

    places     index of the chosen value for each parameter, in the space's order
    ratio      latency over budget
    accuracy   0..1; of no meaning where `ratio` is over 1
    """

    places: tuple[int, ...]
    ratio: float
    accuracy: float


class PolicySampler(BaseSampler):
    """Two-phase recurrent policy. Its whole state follows from the study's finished trials.

    The study maximises accuracy, and each trial carries the constraint `latency`, which is
    L/T - 1. `depth_trials` is the length of the first phase; by default one trial for each
    depth in the space, but 6 at most.
    """

    def __init__(self, space: Space, seed: int, *, depth_trials: int | None = None) -> None:
        self._space = space
        self._seed = seed
        self._depth_trials = min(space.layers, 6) if depth_trials is None else depth_trials
        self._policy = _Policy(space, seed, self._depth_trials)
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(done) < self._policy.learnt:  # another study, or one that was cut back
            self._policy = _Policy(self._space, self._seed, self._depth_trials)
        for past in done[self._policy.learnt :]:
            self._policy.learn(self._outcome(past))
        places = self._policy.propose(np.random.default_rng((self._seed, len(done))))
        choices = self._space.choices()
        return {name: choices[name][place] for name, place in zip(choices, places, strict=True)}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _outcome(self, trial: FrozenTrial) -> Outcome:
        places = tuple(
            values.index(trial.params[name]) for name, values in self._space.choices().items()
        )
        return Outcome(places, 1.0 + trial.constraints[LATENCY], float(trial.values[0]))


class _Policy:
    """The network, its optimiser and the moving averages."""

    def __init__(self, space: Space, seed: int, depth_trials: int) -> None:
        sizes = [len(values) for values in space.choices().values()]
        self._net = _Decisions(sizes, torch.Generator().manual_seed(seed % 2**63))
        self._adam = torch.optim.Adam(self._net.parameters(), lr=_RATE)
        self._depth_trials = depth_trials
        self._lean = torch.zeros(sizes[0])
        self._accuracy: float | None = None  # b of the reward
        self._spread: float | None = None  # s of the reward
        self._reward: float | None = None  # the baseline
        self._best_depth: tuple[float, int] | None = None
        self._seen: set[tuple[int, ...]] = set()
        self.learnt = 0

    def propose(self, rng: np.random.Generator) -> tuple[int, ...]:
        """Index of the chosen value for each parameter."""
        forced = None if self.learnt >= self._depth_trials else self._net.largest
        with torch.no_grad():
            places, _, _ = self._net(self._lean, lambda step, logs: _draw(logs, rng, step, forced))
        return places

    def learn(self, outcome: Outcome) -> None:
        """One REINFORCE step on one trial; none on a repeated one, which brings nothing new."""
        if outcome.places not in self._seen:
            self._seen.add(outcome.places)
            reward = self._reward_of(outcome)
            self._step(outcome.places, reward)
            if self.learnt < self._depth_trials:
                self._note_depth(outcome, reward)
        self.learnt += 1
        if self.learnt == self._depth_trials and self._best_depth is not None:
            away = torch.arange(len(self._lean)) - self._best_depth[1]
            self._lean = -_DEPTH_LEAN * away.abs().float()

    def _step(self, places: tuple[int, ...], reward: float) -> None:
        baseline = reward if self._reward is None else self._reward
        # Far over the budget is as bad as over it: -2 keeps one wild proposal from ruling.
        self._reward = _moved(self._reward, max(reward, -2.0))
        advantage = min(1.0, max(-1.0, reward - baseline))
        _, chances, entropy = self._net(self._lean, lambda step, logs: places[step])
        decided = slice(0, 1) if self.learnt < self._depth_trials else slice(None)
        loss = -advantage * chances[decided].sum() - _ENTROPY * entropy[decided].sum()
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()

    def _reward_of(self, outcome: Outcome) -> float:
        if outcome.ratio > 1.0:
            return -outcome.ratio
        gain = 0.0 if self._accuracy is None else outcome.accuracy - self._accuracy
        self._accuracy = _moved(self._accuracy, outcome.accuracy)
        self._spread = _moved(self._spread, abs(gain))
        return gain / (self._spread + 1e-3) + outcome.ratio

    def _note_depth(self, outcome: Outcome, reward: float) -> None:
        found = (reward, outcome.places[0])
        if outcome.ratio <= 1.0 and (self._best_depth is None or found > self._best_depth):
            self._best_depth = found


class _Decisions(nn.Module):
    """LSTM over the parameters; the input of each step is the value chosen before.

    The values of a parameter are ordered, so the logits are a smooth function of the place:
    a fixed radial basis times weights that the state gives. What is learnt of one width
    carries over to those beside it.
    """

    def __init__(self, sizes: list[int], generator: torch.Generator) -> None:
        super().__init__()
        self.largest = tuple(size - 1 for size in sizes)
        self._basis = [_radial_basis(size) for size in sizes]
        self._cell = nn.LSTMCell(_CENTRES + 1, _WIDTH)
        self._heads = nn.ModuleList(nn.Linear(_WIDTH, _CENTRES) for _ in sizes)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1, generator=generator)

    def forward(
        self, lean: Tensor, choose: Callable[[int, Tensor], int]
    ) -> tuple[tuple[int, ...], Tensor, Tensor]:
        """The places, and log-probability and entropy of each decision, shape [parameters].

        `choose` gives the place for a step and its log-probabilities, shape [values]; `lean` is
        added to the logits of the first step.
        """
        state = (torch.zeros(1, _WIDTH), torch.zeros(1, _WIDTH))
        fed = torch.zeros(1, _CENTRES + 1)
        chosen, chances, entropies = [], [], []
        for step, basis in enumerate(self._basis):
            state = self._cell(fed, state)
            logits = basis @ self._heads[step](state[0])[0]
            logs = torch.log_softmax(logits + lean if step == 0 else logits, dim=0)
            place = choose(step, logs)
            chosen.append(place)
            chances.append(logs[place])
            entropies.append(-(logs.exp() * logs).sum())
            fed = torch.cat([basis[place], torch.tensor([step + 1.0])])[None]
        return tuple(chosen), torch.stack(chances), torch.stack(entropies)


def _draw(logs: Tensor, rng: np.random.Generator, step: int, forced: tuple[int, ...] | None) -> int:
    """A place drawn by the policy; after the first step that of `forced`, where it is given."""
    if forced is not None and step > 0:
        return forced[step]
    chances = np.exp(logs.numpy().astype(np.float64))
    mixed = (1 - _UNIFORM) * chances / chances.sum() + _UNIFORM / len(chances)
    return int(rng.choice(len(mixed), p=mixed / mixed.sum()))


def _radial_basis(size: int) -> Tensor:
    """Shape [values, centres]: Gaussians with centres spread evenly over the places."""
    places = torch.linspace(0.0, 1.0, size)[:, None]
    centres = torch.linspace(0.0, 1.0, _CENTRES)[None]
    return torch.exp(-0.5 * ((places - centres) * (_CENTRES - 1)) ** 2)


def _moved(average: float | None, value: float) -> float:
    return value if average is None else _DECAY * average + (1 - _DECAY) * value
