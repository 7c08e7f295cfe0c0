"""The results of tasks. Offsets count characters of the given text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Prediction:
    """The scores of one text: (label, score) pairs, best first.

    Scores are probabilities that sum to 1; in a multi-label problem each label has a probability of
    its own. A regression has plain values in the order of its outputs; a single one is called
    "score".

    chosen   the labels whose score reaches the threshold, best first; None where no threshold is
             given and labels exclude each other
    """

    scores: tuple[tuple[str, float], ...]
    chosen: tuple[str, ...] | None = None

    @property
    def label(self) -> str:
        return self.scores[0][0]

    @property
    def score(self) -> float:
        return self.scores[0][1]

    def to_dict(self) -> dict[str, Any]:
        form: dict[str, Any] = {
            "labels": [{"label": name, "score": value} for name, value in self.scores]
        }
        return form if self.chosen is None else form | {"chosen": list(self.chosen)}


@dataclass(frozen=True, slots=True)
class _Found:
    """A result whose JSON form has the same fields."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Entity(_Found):
    """A named part of the text: text[start:end]."""

    label: str
    score: float
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Answer(_Found):
    """A part of the context that answers the question: context[start:end].

    The text is empty where the context holds no answer. `null_score` is the score of that: which
    of the two is larger is what the model says. None for a model whose texts begin with no special
    token.
    """

    score: float
    start: int
    end: int
    text: str
    null_score: float | None = None


@dataclass(frozen=True, slots=True)
class Filling(_Found):
    """A token for a mask, and the text with the mask filled in, as the tokenizer decodes it."""

    score: float
    token_id: int
    token: str
    text: str
