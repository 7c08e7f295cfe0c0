"""The paper's controller: a recurrent policy trained by REINFORCE, as an Optuna sampler.

One LSTM emits the decisions of an architecture one after another (Zoph and Le 2017, "Neural
Architecture Search with Reinforcement Learning", section 3). The paper searches in two phases,
first the number of layers, then their sizes:

  depth   the first proposals decide `layers` only; the widths stay at the teacher's.
  sizes   everything is decided. The depth is not frozen but biased towards the best one of the
          first phase, because a depth that is right for full-width layers can be too small for
          narrower ones.

The paper does not print its reward. This one has the two cases of its co-authors' hardware-aware
search (Jiang et al. 2019, "Accuracy vs. Efficiency", FNAS), with latency L, budget T, accuracy A
and b the moving average of A:

    R = (T - L)/T - 1     if L > T; nothing was trained
    R = (A - b)/s + L/T   if L <= T

s is the moving average of |A - b|. FNAS has s = 1; but here A differs by hundredths between
candidates and L/T by tenths, and the policy would learn only to fill the budget (measured in
docs/search.md). REINFORCE uses R minus its own moving average.
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

from canao.search.candidates.space import Space
from canao.search.controllers.controller import LATENCY
from canao.search.controllers.turns import proposed_before

_WIDTH = 24  # of the LSTM state
_CENTRES = 6  # radial basis functions for the values of one parameter
_DECAY = 0.8  # of the moving averages
_RATE = 0.05  # of Adam
_ENTROPY = 0.3  # weight of the entropy bonus, which keeps the policy from converging early
_UNIFORM = 0.1  # share of decisions that are drawn uniformly
_DEPTH_BIAS = 0.2  # log-odds lost per layer away from the depth of the first phase


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a controller learns from one trial.

    indices    index of the chosen value for each parameter, in the space's order
    ratio      latency over budget
    accuracy   0..1; without meaning if `ratio` is over 1
    """

    indices: tuple[int, ...]
    ratio: float
    accuracy: float


class PolicySampler(BaseSampler):
    """The two-phase recurrent policy. Its whole state follows from the study's finished trials.

    The study maximises the accuracy, and each trial has the constraint `latency`, L/T - 1.
    `depth_trials` is the length of the first phase; by default one trial for each depth in the
    space, but at most 6.
    """

    def __init__(self, space: Space, seed: int, *, depth_trials: int | None = None) -> None:
        self._space = space
        self._seed = seed
        self._depth_trials = min(space.layers, 6) if depth_trials is None else depth_trials
        self._policy = _Policy(space, seed, self._depth_trials)
        self._learnt: set[int] = set()  # numbers of the trials that the policy has learnt from
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not self._learnt <= {past.number for past in done}:  # another study
            self._policy = _Policy(self._space, self._seed, self._depth_trials)
            self._learnt = set()
        for past in done:  # of several processes a later trial may end before an earlier one
            if past.number not in self._learnt:
                self._learnt.add(past.number)
                self._policy.learn(self._outcome(past))
        turn = proposed_before(study, trial)
        indices = self._policy.propose(np.random.default_rng((self._seed, turn)))
        choices = self._space.choices()
        return {name: choices[name][index] for name, index in zip(choices, indices, strict=True)}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _outcome(self, trial: FrozenTrial) -> Outcome:
        indices = tuple(
            values.index(trial.params[name]) for name, values in self._space.choices().items()
        )
        return Outcome(indices, 1.0 + trial.constraints[LATENCY], float(trial.values[0]))


class _Policy:
    """The network, its optimiser and the moving averages."""

    def __init__(self, space: Space, seed: int, depth_trials: int) -> None:
        sizes = [len(values) for values in space.choices().values()]
        self._net = _Decisions(sizes, torch.Generator().manual_seed(seed % 2**63))
        self._adam = torch.optim.Adam(self._net.parameters(), lr=_RATE)
        self._depth_trials = depth_trials
        self._depth_bias = torch.zeros(sizes[0])
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
            indices, _, _ = self._net(
                self._depth_bias,
                lambda step, log_probs: _draw(log_probs, rng, step, forced),
            )
        return indices

    def learn(self, outcome: Outcome) -> None:
        """One REINFORCE step on one trial; a repeated trial teaches nothing new and is skipped."""
        if outcome.indices not in self._seen:
            self._seen.add(outcome.indices)
            reward = self._reward_of(outcome)
            self._step(outcome.indices, reward)
            if self.learnt < self._depth_trials:
                self._note_depth(outcome, reward)
        self.learnt += 1
        if self.learnt == self._depth_trials and self._best_depth is not None:
            away = torch.arange(len(self._depth_bias)) - self._best_depth[1]
            self._depth_bias = -_DEPTH_BIAS * away.abs().float()

    def _step(self, indices: tuple[int, ...], reward: float) -> None:
        baseline = reward if self._reward is None else self._reward
        # Clipped at -2, so that one proposal far over the budget does not dominate the average.
        self._reward = _moved(self._reward, max(reward, -2.0))
        advantage = min(1.0, max(-1.0, reward - baseline))
        _, log_probs, entropy = self._net(self._depth_bias, lambda step, _: indices[step])
        decided = slice(0, 1) if self.learnt < self._depth_trials else slice(None)
        loss = -advantage * log_probs[decided].sum() - _ENTROPY * entropy[decided].sum()
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
        found = (reward, outcome.indices[0])
        if outcome.ratio <= 1.0 and (self._best_depth is None or found > self._best_depth):
            self._best_depth = found


class _Decisions(nn.Module):
    """An LSTM over the parameters; the input of each step is the value chosen in the step before.

    The values of a parameter are ordered, so the logits are a smooth function of the index: a
    fixed radial basis times weights computed from the state. What is learnt about one width
    carries over to neighbouring widths.
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
        self, depth_bias: Tensor, choose: Callable[[int, Tensor], int]
    ) -> tuple[tuple[int, ...], Tensor, Tensor]:
        """The chosen indices; the log-probability and entropy of each decision, [parameters].

        `choose` takes a step and the log-probabilities of its values, shape [values], and returns
        the index of one. `depth_bias` is added to the logits of the first step.
        """
        state = (torch.zeros(1, _WIDTH), torch.zeros(1, _WIDTH))
        fed = torch.zeros(1, _CENTRES + 1)
        indices, chosen, entropies = [], [], []
        for step, basis in enumerate(self._basis):
            state = self._cell(fed, state)
            logits = basis @ self._heads[step](state[0])[0]
            log_probs = torch.log_softmax(logits + depth_bias if step == 0 else logits, dim=0)
            index = choose(step, log_probs)
            indices.append(index)
            chosen.append(log_probs[index])
            entropies.append(-(log_probs.exp() * log_probs).sum())
            fed = torch.cat([basis[index], torch.tensor([step + 1.0])])[None]
        return tuple(indices), torch.stack(chosen), torch.stack(entropies)


def _draw(
    log_probs: Tensor, rng: np.random.Generator, step: int, forced: tuple[int, ...] | None
) -> int:
    """An index drawn from the policy; after the first step the one in `forced`, if given."""
    if forced is not None and step > 0:
        return forced[step]
    probs = np.exp(log_probs.numpy().astype(np.float64))
    mixed = (1 - _UNIFORM) * probs / probs.sum() + _UNIFORM / len(probs)
    return int(rng.choice(len(mixed), p=mixed / mixed.sum()))


def _radial_basis(size: int) -> Tensor:
    """Shape [values, centres]: Gaussians whose centres are spread evenly over the indices."""
    indices = torch.linspace(0.0, 1.0, size)[:, None]
    centres = torch.linspace(0.0, 1.0, _CENTRES)[None]
    return torch.exp(-0.5 * ((indices - centres) * (_CENTRES - 1)) ** 2)


def _moved(average: float | None, value: float) -> float:
    return value if average is None else _DECAY * average + (1 - _DECAY) * value
