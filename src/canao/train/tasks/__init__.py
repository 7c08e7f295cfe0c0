"""What a task is to training, a module each: how its labels are read, the losses on labels and on
what the teacher says, what a model predicts, its metrics and its head. May import what reads data
and the heads of models, but nothing that trains, and no other part of training that asks for tasks.

Modules load when they are used: the command line asks for names, and must not load PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from canao.train.tasks.task import Task

CLASSIFICATION, REGRESSION = "text-classification", "text-regression"
WORDS, SEVERAL = "token-classification", "multi-label-classification"
# The module of each, whose `TASK` it is.
_HOMES = {
    CLASSIFICATION: "classes",
    REGRESSION: "values",
    WORDS: "words",
    SEVERAL: "several",
}
TASKS = tuple(_HOMES)


def task_named(name: str) -> Task:
    """The task of that name, one of TASKS."""
    found: Task = import_module(f"{__name__}.{_HOMES[name]}").TASK
    return found
