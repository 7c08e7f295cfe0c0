"""Whether a model's outputs are what its task is read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from canao.errors import InputError
from canao.inference.tasks.table import TASKS
from canao.inference.tasks.task import OF_TEXT, OF_TOKENS


def require_head(manifest: Mapping[str, Any]) -> None:
    """InputError unless the outputs that a task is read from have values of the whole text, or for
    each token, as the task needs them."""
    task, outputs = TASKS.get(manifest.get("task", "none")), manifest.get("outputs", ())
    kind, names = ("", ()) if task is None else task.read(manifest)
    if task is None or not kind:
        return
    read = [o for o in outputs if o["name"] in names] if names else outputs[:1]
    for output in read:
        if _kind(output["shape"]) != kind:
            raise InputError(
                f"a model for {task.name} has an output {kind}, and {output['name']} has the shape "
                f"{output['shape']}; compile the model again"
            )


def _kind(shape: Sequence[int | str]) -> str:
    lengths = [d for d in shape if not isinstance(d, int)]
    return OF_TOKENS if lengths == ["s"] else "" if lengths else OF_TEXT
