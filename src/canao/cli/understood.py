"""How a model's files were understood, in lines for people: its task and labels, scores, texts,
tokenizer, and what of the files has no effect. `inspect` and `compile` print the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from canao.inference.tasks import TASKS

_SHOWN = 6  # names on a line


def understood(head: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, what it is) of what follows from a model's entries in the manifest or in a report."""
    yield "task", _task(head)
    yield from _scores(head)
    texts = head.get("pooling") or head.get("cross_encoder") or {}
    if texts.get("prompts"):
        usual = f"; '{texts['prompt']}' before texts that name none" if texts.get("prompt") else ""
        yield "prompts", f"{', '.join(sorted(texts['prompts']))}{usual}"
    yield "tokenizer", _tokenizer(head.get("tokenizer"), texts)


def left_out_lines(left_out: Sequence[Sequence[str]]) -> list[str]:
    """What of the model's directory has no effect: names that share a reason on one line."""
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out:
        reasons.setdefault(reason, []).append(name)
    lines = []
    for reason, names in reasons.items():
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        lines.append(f"  {', '.join(names[:_SHOWN])}{more}: {reason}")
    return ["without effect", *lines] if lines else []


def _task(head: Mapping[str, Any]) -> str:
    task, labels = str(head["task"]), head["labels"]
    if labels:
        task += f", {len(labels)} labels: {', '.join(labels[:_SHOWN])}"
        task += ", ..." if len(labels) > _SHOWN else ""
    if head["problem_type"] == "multi_label_classification" and len(labels) > 1:
        task += " (independent of each other)"
    pooling = head["pooling"]
    if pooling:
        task += f", pooling {' and '.join(pooling['modes'])}"
        task += "".join(f", {kind} to {width}" for width, kind in pooling["dense"])
        task += ", normalized" if pooling["normalize"] else ""
        size = pooling.get("truncate_dim")
        task += f", the first {size} numbers" if size else ""
    return task


def _tokenizer(found: Mapping[str, Any] | None, texts: Mapping[str, Any]) -> str:
    if not found:
        return "none; the model takes token ids, but no texts"
    tokens = f", {found['tokens']} tokens" if found["tokens"] else ""
    said = f"{found['kind']}{tokens}, {found['file']}"
    said += "" if found["file"] == "tokenizer.json" else " (converted when compiled)"
    if texts.get("max_tokens"):
        said += f", texts truncated to {texts['max_tokens']} tokens"
    elif found.get("max_tokens"):
        said += f", texts truncated to {found['max_tokens']} tokens where asked for"
    said += ", at their beginning" if found.get("truncation_side") == "left" else ""
    return said + (", in lower case" if texts.get("lowercase") else "")


def _scores(head: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if head.get("head_end"):
        yield "scores", str(head["head_end"])
    task = TASKS.get(head["task"])
    if task is not None:
        yield from task.described(head)
