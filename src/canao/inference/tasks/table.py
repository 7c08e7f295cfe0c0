"""The tasks that libraries have for texts, by their names."""

from __future__ import annotations

from collections.abc import Mapping

from canao.errors import InputError
from canao.inference.tasks.answers import Answers
from canao.inference.tasks.classify import Classification, Regression
from canao.inference.tasks.continuing import Continuing
from canao.inference.tasks.entities import Entities
from canao.inference.tasks.fill import Fillings
from canao.inference.tasks.task import Manifest, Task
from canao.inference.tasks.vectors import SentenceVector, TokenVectors

_ALL = (Classification, Regression, Entities, Answers, Fillings, TokenVectors, SentenceVector,
        Continuing)  # fmt: skip
TASKS: Mapping[str, Task] = {task.name: task() for task in _ALL}


def task_of(manifest: Manifest) -> Task:
    """The task of an artifact; InputError if it takes no texts."""
    name = manifest.get("task", "none")
    if name not in TASKS:
        raise InputError(
            f"a model for '{name}' takes no texts; call it from Python with token ids"
        )
    return TASKS[name]
