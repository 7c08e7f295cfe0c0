"""Text generation: which token comes next, and when to stop. The model is a function here.

At temperature 0 the token with the largest logit is taken. Otherwise tokens are drawn: logits are
divided by the temperature, then cut to the `top_k` largest, then to the fewest that together have
the probability `top_p`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from canao.errors import InputError

# What an incomplete character of several bytes decodes to.
_INCOMPLETE = "\ufffd"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; top_k 0 and top_p 1 keep all tokens. A seed makes it repeatable."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}; give 0 or more")
        if self.top_k < 0:
            raise InputError(f"top_k is {self.top_k}; give 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; give more than 0, at most 1")

    def pick(self, logits: np.ndarray, random: np.random.Generator) -> int:
        """The next token, from the logits of the last token."""
        if self.temperature == 0:
            return int(logits.argmax())
        order = np.argsort(-logits, kind="stable")[: self.top_k or None]
        scores = logits[order].astype(np.float64) / self.temperature
        weights = np.exp(scores - scores[0])
        shares = np.cumsum(weights / weights.sum())
        # The token that reaches top_p is kept: without it the kept ones would stay below top_p.
        kept = int(np.searchsorted(shares, self.top_p)) + 1
        drawn = np.searchsorted(shares[:kept], random.random() * shares[:kept][-1], side="right")
        return int(order[min(drawn, kept - 1)])


def tokens(
    extend: Callable[[np.ndarray], np.ndarray],
    prompt: np.ndarray,
    count: int,
    sampling: Sampling,
    stop: Collection[int] = (),
) -> Iterator[int]:
    """Up to `count` tokens after the prompt; a token of `stop` is the last one.

    `extend` appends tokens to the model's sequence and returns the logits of the last one.
    """
    random = np.random.default_rng(sampling.seed)
    new = prompt
    for _ in range(count):
        token = sampling.pick(extend(new), random)
        yield token
        if token in stop:
            return
        new = np.array([token], np.int32)


def pieces(decode: Callable[[Sequence[int]], str], source: Iterator[int]) -> Iterator[str]:
    """The text of the tokens, piece by piece; a character of several tokens comes in one piece."""
    taken: list[int] = []
    done = ""
    for token in source:
        taken.append(token)
        text = decode(taken)
        if not text.endswith(_INCOMPLETE):
            yield text[len(done) :]
            done = text
    if taken:
        yield decode(taken)[len(done) :]
