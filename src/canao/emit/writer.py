"""A small writer of C: lines at the right depth, nothing cleaned up afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from string import Template

import numpy as np

from canao.emit.language import C11, Language


def fill(template: str, **values: object) -> str:
    """A template with each `$word` replaced; a word that is not given is a KeyError."""
    return Template(template).substitute(values)


class Writer:
    def __init__(self) -> None:
        self._lines: list[str] = []
        self.depth = 0

    def line(self, text: str = "") -> None:
        self._lines.append("    " * self.depth + text if text else "")

    def raw(self, text: str) -> None:
        self._lines.append(text.rstrip("\n"))

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """`head {` ... `}`; a function's brace goes on a line of its own."""
        if head.endswith(")") and head.startswith(("static", "CANAO")):
            self.line(head)
            self.line("{")
        else:
            self.line(f"{head} {{" if head else "{")
        self.depth += 1
        yield
        self.depth -= 1
        self.line("}")

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def number(x: float, language: Language = C11) -> str:
    """A float32 literal that reads back as the same value."""
    value = np.float32(x)
    if np.isnan(value):
        return language.nan
    if np.isinf(value):
        return f"-{language.infinity}" if value < 0 else language.infinity
    text = np.format_float_scientific(value, unique=True, trim="0")
    return f"{text}f"
