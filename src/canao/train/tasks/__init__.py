"""What a task is to training, a module each: how its labels are read, the losses on labels and on
what the teacher says, what a model predicts, its metrics and its head. May import train/reading,
train/task_names.py, model and inference/tasks/scheme.py; nothing that trains.

Modules load when they are used: data are read where PyTorch need not be there yet.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from canao.train.task_names import HOMES

if TYPE_CHECKING:
    from canao.train.tasks.task import Task


def task_named(name: str) -> Task:
    """The task of that name, one of `task_names.TASKS`."""
    found: Task = import_module(f"{__name__}.{HOMES[name]}").TASK
    return found
