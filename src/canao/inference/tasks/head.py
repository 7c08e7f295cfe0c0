"""Whether a model's outputs are what its task is read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from canao.errors import InputError

_WHOLE, _TOKENS = "of the whole text", "for each token"
# Tasks whose results are read from outputs of one kind only, and the outputs if not the first.
_READ: Mapping[str, tuple[str, Sequence[str]]] = {
    "text-classification": (_WHOLE, ()),
    "text-regression": (_WHOLE, ()),
    "token-classification": (_TOKENS, ()),
    "fill-mask": (_TOKENS, ()),
    "question-answering": (_TOKENS, ("start_logits", "end_logits")),
    "text-generation": (_TOKENS, ()),
}
EMBEDDING = "sentence_embedding"


def require_head(manifest: Mapping[str, Any]) -> None:
    """InputError unless the outputs that a task is read from have values of the whole text, or for
    each token, as the task needs them."""
    task, outputs = manifest.get("task", "none"), manifest.get("outputs", ())
    kind, names = _READ.get(task, ("", ()))
    if task == "sentence-embedding":
        named = [o for o in outputs if o["name"] == EMBEDDING]
        kind, names = (_WHOLE, (EMBEDDING,)) if named else (_TOKENS, ())
    if not kind:
        return
    read = [o for o in outputs if o["name"] in names] if names else outputs[:1]
    for output in read:
        if _kind(output["shape"]) != kind:
            raise InputError(
                f"a model for {task} has an output {kind}, and {output['name']} has the shape "
                f"{output['shape']}; compile the model again"
            )


def _kind(shape: Sequence[int | str]) -> str:
    lengths = [d for d in shape if not isinstance(d, int)]
    return _TOKENS if lengths == ["s"] else "" if lengths else _WHOLE
