"""The heads that students are trained with: which of Transformers' classes a model is then, and how
its configuration says what the head's outputs mean. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canao.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_SEQUENCE, _TOKEN = "ForSequenceClassification", "ForTokenClassification"
_CLASSES, _SEVERAL = "single_label_classification", "multi_label_classification"
# What a class's end says it is for, as `--task` has it.
_TASKS = {_SEQUENCE: "text-classification", _TOKEN: "token-classification"}


@dataclass(frozen=True, slots=True)
class Head:
    """What a model ends in.

    kind      the end of its class's name in Transformers, as ForSequenceClassification
    problem   problem_type of its configuration; None: the class needs none
    """

    kind: str
    problem: str | None

    @property
    def pools(self) -> bool:
        """Whether it reads the first token of a text through a layer before its own."""
        return self.kind == _SEQUENCE

    @property
    def averages(self) -> bool:
        """Whether it reads the mean of a text's tokens."""
        return False

    @property
    def auto(self) -> Any:
        """Transformers' class that makes a model with this head of any family's configuration."""
        import transformers

        return getattr(transformers, f"AutoModel{self.kind}")

    def build(self, config: PreTrainedConfig) -> Any:
        """A model with this head, with random weights from torch's generator."""
        return self.auto.from_config(config)


CLASS_OF_TEXT = Head(_SEQUENCE, _CLASSES)
VALUE_OF_TEXT = Head(_SEQUENCE, "regression")
LABELS_OF_TEXT = Head(_SEQUENCE, _SEVERAL)
CLASS_OF_TOKEN = Head(_TOKEN, None)


def head_for(labels: Sequence[str]) -> Head:
    """Where no other head is asked for: a class of a text, or a value if there are no labels."""
    return CLASS_OF_TEXT if labels else VALUE_OF_TEXT


def head_of(model: Any) -> Head:
    """The head of a model that `Head.build` may have made."""
    own = getattr(model, "head", None)
    if isinstance(own, Head):
        return own
    if type(model).__name__.endswith(_TOKEN):
        return CLASS_OF_TOKEN
    problem = getattr(model.config, "problem_type", None)
    return Head(_SEQUENCE, problem)


def require_fitting(
    directory: Path, config: PreTrainedConfig, labels: Sequence[str], head: Head, task: str
) -> None:
    """InputError if a teacher's configuration contradicts the task that `head` is for: it is a
    model that labels something else, or its scores of the same labels mean something else."""
    for name in getattr(config, "architectures", None) or []:
        wrong = next((k for k in _TASKS if name.endswith(k) and k != head.kind), None)
        if wrong is not None:
            raise InputError(
                f"{directory}: config.json names {name}, which is for {_TASKS[wrong]}, and the "
                f"task is {task}; give a teacher for that, or its encoder without a head"
            )
    declared = getattr(config, "problem_type", None)
    names = {str(name) for name in config.id2label.values()}
    unnamed = len(names) == len(labels) and all(name.startswith("LABEL_") for name in names)
    differ = _SEVERAL in (declared, head.problem) and declared not in (head.problem, None)
    if differ and labels and (unnamed or names == set(labels)):
        raise InputError(
            f"{directory}: config.json says problem_type {declared} of the same labels, and the "
            f"task is {task}; give another --task, or remove problem_type so that a new head is "
            "trained"
        )
