"""From texts to results, with one module for each task. May import inference/generation.py,
inference/logits.py, artifact and errors; a task knows no loaded model, which passes on its outputs.

`TASKS` lists the tasks and their options; `checked_options` refuses an option of another task;
`interpret` turns the outputs of the library into results. A model of any other task takes token ids
only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from canao.errors import InputError
from canao.inference.generation import SETTINGS, settings_of
from canao.inference.tasks.answers import find_answers
from canao.inference.tasks.classify import as_logits, classify, regress
from canao.inference.tasks.entities import STRATEGIES, find_entities
from canao.inference.tasks.fill import fill_masks, require_mask
from canao.inference.tasks.head import EMBEDDING
from canao.inference.tasks.reader import Prepared, Reader
from canao.inference.tasks.results import Answer, Entity, Filling, Prediction
from canao.inference.tasks.vectors import POOLINGS, pool
from canao.inference.tasks.windows import joined

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Task:
    """The options of a task with their defaults, and whether it takes a second text.

    `pairs` is "" where a second text is refused, "optional", or "context" where it is required.
    """

    options: Mapping[str, Any]
    pairs: str = ""


# The task of continuing a text; `CompiledModel.stream` does it, token by token.
GENERATION = "text-generation"
TASKS: Mapping[str, Task] = {
    "text-classification": Task({"top": None, "threshold": None, "prompt_name": None}, "optional"),
    "text-regression": Task({"prompt_name": None}, "optional"),
    "token-classification": Task({"aggregate": "word", "ignore_labels": None}),
    "question-answering": Task(
        {"top": 1, "max_answer_tokens": 15, "null_threshold": None}, "context"
    ),
    "fill-mask": Task({"top": 5}),
    "feature-extraction": Task({"pooling": None, "normalize": False}),
    "sentence-embedding": Task({"prompt_name": None}),
    GENERATION: Task(dict.fromkeys((*SETTINGS, "seed", "stop"))),
}
_CHOICES = {"aggregate": STRATEGIES, "pooling": (None, *POOLINGS)}


def task_of(manifest: Mapping[str, Any]) -> Task:
    """The task of an artifact; InputError if it takes no texts."""
    name = manifest.get("task", "none")
    if name not in TASKS:
        raise InputError(
            f"a model for '{name}' takes no texts; call it from Python with token ids"
        )
    return TASKS[name]


def checked_options(
    manifest: Mapping[str, Any], pair: str | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The task's options: those given, and defaults. InputError for an option of another task."""
    task, name = task_of(manifest), manifest["task"]
    for option, value in given.items():
        if option not in task.options:
            takes = ", ".join(task.options) or "none"
            raise InputError(f"{option} is no option of {name}; its options: {takes}")
        choices = _CHOICES.get(option)
        if choices is not None and value not in choices:
            named = ", ".join(c for c in choices if c)
            raise InputError(f"{option} '{value}' is not one of {named}")
        _check(option, value)
    if pair is None and task.pairs == "context":
        raise InputError("a question needs its context; give it as second text (--context)")
    if pair is not None and not task.pairs:
        raise InputError(f"{name} takes one text, not a pair")
    if name == GENERATION:
        settings_of(manifest.get("generation") or {},
                    {k: v for k, v in given.items() if k in SETTINGS})  # fmt: skip
    return {**task.options, **given}


def _check(option: str, value: Any) -> None:
    """InputError for a value that is out of range."""
    if value is None:
        return
    if option in ("top", "max_answer_tokens") and value < 1:
        raise InputError(f"{option} is {value}; give at least 1")
    if option == "threshold" and not 0 <= value <= 1:
        raise InputError(f"threshold is {value}; give 0 to 1")
    if option == "null_threshold" and math.isnan(value):
        raise InputError(f"null_threshold is {value}; give a number")
    if option == "ignore_labels" and isinstance(value, str):
        raise InputError(f"ignore_labels is '{value}'; give a list of labels")


def prepare(
    reader: Reader, text: str, pair: str | None, truncate: bool | None, options: Mapping[str, Any]
) -> Prepared:
    """A text, checked and tokenised, with the checked options of its task."""
    manifest = reader.artifact.manifest
    prepared = reader.prepare(text, pair, truncate, checked_options(manifest, pair, options))
    if manifest["task"] == "fill-mask":
        require_mask(prepared.windows[0].ids, reader.tokenizer, _mask(manifest))
    return prepared


def interpret(reader: Reader, prepared: Prepared, outputs: Sequence[Outputs]) -> Any:
    """The result for a text, from the outputs of its windows (which have no batch dimension).

    It is a Prediction for text-classification and text-regression, a list of Entity or of Answer,
    for each mask a list of Filling, or for feature-extraction an array [s, width], pooled [width].
    """
    manifest, options = reader.artifact.manifest, prepared.options
    task, window, first = manifest["task"], prepared.windows[0], _logits(outputs[0])
    if task == "text-classification":
        return classify(first, manifest, options["top"], options["threshold"])
    if task == "text-regression":
        return regress(first, manifest)
    if task == "token-classification":
        if prepared.whole is not None:
            rows = [_logits(o).reshape(len(w.ids), -1)
                    for o, w in zip(outputs, prepared.windows, strict=True)]  # fmt: skip
            window, first = prepared.whole, joined(prepared.whole, prepared.windows, rows)
        return find_entities(prepared.text, window, first, manifest, options["aggregate"],
                             options["ignore_labels"], *_words_of(reader.tokenizer))  # fmt: skip
    if task == "fill-mask":
        return fill_masks(window, first, reader.tokenizer, _mask(manifest) or "", options["top"],
                          manifest.get("activation"))  # fmt: skip
    if task == "question-answering":
        activation = manifest.get("activation")
        starts, ends = ([as_logits(_named(o, name), activation) for o in outputs]
                        for name in ("start", "end"))  # fmt: skip
        return find_answers(prepared.pair or "", prepared.windows, starts, ends, options["top"],
                            options["max_answer_tokens"], options["null_threshold"])  # fmt: skip
    pooling = manifest.get("pooling")
    if pooling or EMBEDDING in outputs[0]:
        return _embedding(first, outputs[0], pooling or {}, prepared.skip)
    if options["pooling"]:
        return pool(first, [options["pooling"]], normalize=options["normalize"])
    return first / np.linalg.norm(first, axis=-1, keepdims=True) if options["normalize"] else first


def _embedding(
    hidden: np.ndarray, outputs: Outputs, pooling: Mapping[str, Any], skip: int
) -> np.ndarray:
    """The sentence embedding that the library gives, or, of a graph without one, made here."""
    if EMBEDDING in outputs:
        vector = outputs[EMBEDDING].ravel()
    else:
        vector = pool(hidden, pooling["modes"], normalize=pooling["normalize"], skip=skip)
    return vector[: pooling.get("truncate_dim")]


def _words_of(tokenizer: Any) -> tuple[bool, int | None]:
    """Whether a tokenizer's vocabulary marks tokens inside of words, and its unknown token's id."""
    model = tokenizer.library.model
    unknown = getattr(model, "unk_token", None)
    found = tokenizer.token_to_id(unknown) if unknown else getattr(model, "unk_id", None)
    return bool(getattr(model, "continuing_subword_prefix", None)), found


def _mask(manifest: Mapping[str, Any]) -> str | None:
    return (manifest.get("tokenizer") or {}).get("mask")


def _logits(outputs: Outputs) -> np.ndarray:
    """The first output, which is the head's."""
    return next(iter(outputs.values()))


def _named(outputs: Outputs, name: str) -> np.ndarray:
    found = outputs.get(f"{name}_logits")
    if found is None:
        raise InputError(f"the model has no output {name}_logits; it cannot answer questions")
    return found


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
