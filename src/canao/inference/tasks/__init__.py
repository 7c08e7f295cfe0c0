"""From texts to results, with one module for each task. May import inference/generation.py,
inference/logits.py, artifact and errors; a task knows no loaded model, which passes on its outputs.

`TASKS` are the tasks by their names (task.py says what one is); `checked_options` refuses an option
of another task; `interpret` turns the outputs of the library into results. A model of any other
task takes token ids only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from canao.errors import InputError
from canao.inference.tasks.classify import as_logits
from canao.inference.tasks.continuing import GENERATION
from canao.inference.tasks.prepared import Prepared
from canao.inference.tasks.reader import Reader
from canao.inference.tasks.results import Answer, Entity, Filling, Prediction
from canao.inference.tasks.table import TASKS, task_of
from canao.inference.tasks.task import CONTEXT, Outputs, Task


def checked_options(
    manifest: Mapping[str, Any], pair: str | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The task's options: those given, and defaults. InputError for an option of another task."""
    task = task_of(manifest)
    for name, value in given.items():
        if name not in task.options:
            takes = ", ".join(task.options) or "none"
            raise InputError(f"{name} is no option of {task.name}; its options: {takes}")
        task.options[name].check(name, value)
    if pair is None and task.pairs == CONTEXT:
        raise InputError("a question needs its context; give it as second text (--context)")
    if pair is not None and not task.pairs:
        raise InputError(f"{task.name} takes one text, not a pair")
    task.check(given, manifest)
    return {name: option.default for name, option in task.options.items()} | dict(given)


def prepare(
    reader: Reader, text: str, pair: str | None, truncate: bool | None, options: Mapping[str, Any]
) -> Prepared:
    """A text, checked and tokenised, with the checked options of its task."""
    manifest = reader.artifact.manifest
    prepared = reader.prepare(text, pair, truncate, checked_options(manifest, pair, options))
    task_of(manifest).require(prepared, manifest, reader.tokenizer)
    return prepared


def interpret(reader: Reader, prepared: Prepared, outputs: Sequence[Outputs]) -> Any:
    """The result for a text, from the outputs of its windows (which have no batch dimension).

    It is a Prediction for text-classification and text-regression, a list of Entity or of Answer,
    for each mask a list of Filling, or for feature-extraction an array [s, width], pooled [width].
    """
    manifest = reader.artifact.manifest
    return task_of(manifest).interpret(prepared, outputs, manifest, reader.tokenizer)


__all__ = [
    "GENERATION",
    "TASKS",
    "Answer",
    "Entity",
    "Filling",
    "Prediction",
    "Prepared",
    "Reader",
    "Task",
    "as_logits",
    "checked_options",
    "interpret",
    "prepare",
    "task_of",
]
