"""The head of a SetFit model: a classifier of the sentence's vector, in model_head.safetensors.

SetFit itself writes it as a pickle, which is never opened; docs/setfit.md shows how to write the
same head as safetensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canao.artifact.reading import parse_json
from canao.errors import InputError
from canao.model.inventory.inventory import Inventory
from canao.model.inventory.table import INERT, USED
from canao.model.inventory.tables.sentence import SETFIT
from canao.model.sentence.modules import read_tensors

_SETTINGS, _PICKLE, _SAFE = "config_setfit.json", "model_head.pkl", "model_head.safetensors"
# How scores are made of the head's outputs.
SCORES = ("softmax", "sigmoid", "one-vs-rest")


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A classifier: weight [outputs, width] and bias [outputs], float32 tensors.

    labels      of its outputs, in their order
    scores      one of SCORES; "one-vs-rest" are sigmoids divided by their sum
    normalize   whether the vector is scaled to length 1 first
    """

    weight: Any
    bias: Any
    labels: tuple[str, ...]
    scores: str
    normalize: bool

    @property
    def activation(self) -> str:
        """What makes scores of the logits that the library gives."""
        return "sigmoid" if self.scores == "sigmoid" else "softmax"


def note_setfit(path: Path, inventory: Inventory) -> None:
    """Note the files of a SetFit model, before others judge them by their names."""
    pickle, safe, settings = path / _PICKLE, path / _SAFE, path / _SETTINGS
    if safe.exists():
        inventory.file(safe, USED, "weights of the head")
        if settings.exists():
            inventory.file(settings, USED, "settings")
        if pickle.exists():
            inventory.file(pickle, INERT, f"the head is read from {_SAFE}")
        return
    if pickle.exists() or settings.exists():
        inventory.refuse(
            pickle if pickle.exists() else settings,
            "",
            f"the head of a SetFit model is a pickle, which is never opened; write it as {_SAFE}, "
            "as docs/setfit.md shows",
        )
        if pickle.exists() and settings.exists():
            inventory.file(settings, USED, "settings")


def read_head(path: Path, inventory: Inventory) -> Head | None:
    """The head of a SetFit model; None for a directory of any other model.

    A head that is only a pickle is refused in the inventory. InputError for files that are damaged.
    """
    settings = {}
    if (path / _SETTINGS).exists():
        settings = inventory.settings(path / _SETTINGS, SETFIT)
    note_setfit(path, inventory)
    if not (path / _SAFE).exists():
        return None
    file = path / _SAFE
    tensors, strings = read_tensors(file, inventory, "head")
    weight, bias = tensors.get("coef"), tensors.get("intercept")
    if (weight is None or bias is None or len(tensors) != 2 or weight.dim() != 2
            or bias.shape != weight.shape[:1]):  # fmt: skip
        raise InputError(f"{file}: does not hold coef and intercept alone that fit; write it again")
    scores = strings.get("scores")
    if scores not in SCORES:
        raise InputError(
            f"{file}: 'scores' of its metadata is {scores}, not one of {', '.join(SCORES)}; "
            "write it again"
        )
    classes = parse_json(strings.get("classes", ""), f"{file}, 'classes'", list[int | str])
    weight, bias = _rows(weight, bias, classes, scores)
    if len(classes) != len(weight):
        raise InputError(
            f"{file}: names {len(classes)} classes and has {len(weight)} outputs; write it again"
        )
    labels = _labels(file, classes, settings.get("labels"))
    return Head(weight, bias, labels, scores, settings.get("normalize_embeddings", False))


def _rows(weight: Any, bias: Any, classes: Sequence[object], scores: str) -> tuple[Any, Any]:
    """Two classes have one row in scikit-learn, that of the second: the first's is 0."""
    import torch

    if scores == "softmax" and len(weight) == 1 and len(classes) == 2:
        return torch.cat([weight * 0, weight]), torch.cat([bias * 0, bias])
    return weight, bias


def _labels(
    file: Path, classes: Sequence[int | str], names: Sequence[str] | None
) -> tuple[str, ...]:
    """A class that is a number is one of the labels of config_setfit.json, if that has any."""
    if not names:
        return tuple(map(str, classes))
    wrong = [c for c in classes if isinstance(c, int) and not 0 <= c < len(names)]
    if wrong:
        raise InputError(
            f"{file}: class {wrong[0]} is none of the {len(names)} labels of {_SETTINGS}; "
            "correct them"
        )
    labels = tuple(names[c] if isinstance(c, int) else c for c in classes)
    if len(set(labels)) < len(labels):
        raise InputError(f"{file}: two classes have the same label; correct {_SETTINGS}")
    return labels
