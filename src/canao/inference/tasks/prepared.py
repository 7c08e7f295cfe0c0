"""A text as a task has it: its tokens, and the options that were asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Prepared:
    """A text or a pair of texts as token ids.

    windows   one or more encodings of the `tokenizers` library, several for a long context; or
              several of `Window` for a long text
    options   of the task, with their defaults
    cut       number of tokens before truncation, if the text was truncated; else 0
    whole     the encoding of the whole text, if `windows` are parts of it
    skip      the first tokens, of a prompt, that are not pooled into the text's vector
    """

    text: str
    pair: str | None
    windows: tuple[Any, ...]
    options: dict[str, Any]
    cut: int = 0
    whole: Any = None
    skip: int = 0
