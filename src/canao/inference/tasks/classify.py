"""Scores of a whole text: one of several labels, several labels at once, or plain values.

`activation` in the manifest says what makes scores of the library's first output: a function of
activations.py. It is "identity" or "exp" for a model that ends in softmax, sigmoid or the logarithm
of one by itself, which must not happen twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from canao.errors import InputError
from canao.inference.tasks.activations import activated
from canao.inference.tasks.prepared import Prepared
from canao.inference.tasks.results import Prediction
from canao.inference.tasks.task import (
    OF_TEXT,
    OPTIONAL,
    Manifest,
    Option,
    Outputs,
    Task,
    count,
    first_of,
)

# The score from which on a label counts, where each has a probability of its own.
THRESHOLD = 0.5
_MULTI_LABEL = "multi_label_classification"
# How many labels are printed without `top`; JSON has all of them.
_TOP_PRINTED = 3
_SCORES = {
    "softmax": "softmax over the labels", "sigmoid": "a sigmoid for each label",
    "identity": "the outputs as they are", "exp": "the exponentials of the outputs",
}  # fmt: skip


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    return activated(logits, "softmax")


def scores_of(values: np.ndarray, activation: str | None) -> np.ndarray:
    """The scores that the library's output stands for; without an activation by softmax."""
    return activated(values, activation or "softmax")


def as_logits(values: np.ndarray, activation: str | None) -> np.ndarray:
    """Values of which softmax makes the scores, for models whose scores are softmax's."""
    if activation != "identity":
        return values
    with np.errstate(divide="ignore"):
        return np.log(values)


def activation_of(manifest: Mapping[str, Any], count: int) -> str:
    """What makes scores of a head's `count` outputs: as the manifest says, else as the pipelines
    of Transformers decide."""
    named = manifest.get("activation")
    if named is not None:
        return str(named)
    problem = manifest.get("problem_type")
    if problem == "regression" or manifest.get("task") == "text-regression":
        return "identity"
    return "sigmoid" if problem == _MULTI_LABEL or count == 1 else "softmax"


def label_names(manifest: Mapping[str, Any], count: int) -> Sequence[str]:
    """The model's labels; InputError unless there are as many as outputs."""
    labels = manifest.get("labels") or []
    if len(labels) != count:
        raise InputError(
            f"the manifest names {len(labels)} labels and the model has {count} outputs; "
            "set id2label in config.json and compile again"
        )
    return labels


def classify(
    logits: np.ndarray, manifest: Mapping[str, Any], top: int | None, threshold: float | None = None
) -> Prediction:
    """At most `top` labels with their scores, best first; those that count have `threshold`.

    Without a threshold, labels count from THRESHOLD on where several can be right at once, and
    otherwise none does more than another.
    """
    values = logits.ravel()
    labels = label_names(manifest, len(values))
    activation = activation_of(manifest, len(values))
    scores = scores_of(values, activation)
    if threshold is None and (manifest.get("problem_type") == _MULTI_LABEL
                              or activation == "sigmoid"):  # fmt: skip
        threshold = THRESHOLD
    order = np.argsort(-scores, kind="stable")
    chosen = None
    if threshold is not None:
        chosen = tuple(labels[i] for i in order if scores[i] >= threshold)
    return Prediction(tuple((labels[i], float(scores[i])) for i in order[:top]), chosen)


def regress(logits: np.ndarray, manifest: Mapping[str, Any]) -> Prediction:
    """The outputs themselves, or what the manifest's activation makes of them, in their order."""
    values = logits.ravel()
    names = ["score"] if len(values) == 1 else label_names(manifest, len(values))
    values = scores_of(values, activation_of(manifest, len(values)))
    return Prediction(tuple((name, float(v)) for name, v in zip(names, values, strict=True)))


class Classification(Task):
    """One label of a text or of a pair of texts, or several."""

    name = "text-classification"
    options: ClassVar[Mapping[str, Option]] = {
        "top": count(None),
        "threshold": Option(valid=lambda value: 0 <= value <= 1, remedy="0 to 1"),
        "prompt_name": Option(),
    }
    pairs, per, scored, bounded = OPTIONAL, OF_TEXT, True, True

    def interpret(
        self, prepared: Prepared, outputs: Sequence[Outputs], manifest: Manifest, tokenizer: Any
    ) -> Prediction:
        asked = prepared.options
        return classify(first_of(outputs[0]), manifest, asked["top"], asked["threshold"])

    def form(self, prepared: Prepared, result: Any) -> dict[str, Any]:
        found: dict[str, Any] = result.to_dict()
        return found

    def lines(self, result: Any, options: Mapping[str, Any]) -> Iterator[str]:
        """The labels that have the threshold that was asked for; without one the best."""
        if options.get("threshold") is None or result.chosen is None:
            shown = result.scores[: options.get("top") or _TOP_PRINTED]
        else:
            shown = tuple(pair for pair in result.scores if pair[0] in result.chosen)
            if not shown:
                yield f"          no label has {options['threshold']:g}"
        for label, value in shown:
            yield f"{value:8.4f}  {label}"

    def described(self, head: Manifest) -> Iterator[tuple[str, str]]:
        """What makes the scores, where the graph's end does not say it."""
        if not head.get("head_end"):
            activation = activation_of(head, len(head.get("labels") or []) or 1)
            yield "scores", _SCORES.get(activation, f"{activation} of each output")


class Regression(Classification):
    """Values of a text or of a pair of texts, printed as scores are."""

    name = "text-regression"
    options: ClassVar[Mapping[str, Option]] = {"prompt_name": Option()}

    def interpret(
        self, prepared: Prepared, outputs: Sequence[Outputs], manifest: Manifest, tokenizer: Any
    ) -> Prediction:
        return regress(first_of(outputs[0]), manifest)
