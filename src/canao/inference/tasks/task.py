"""What all tasks of libraries have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from canao.errors import InputError
from canao.inference.tasks.prepared import Prepared

Outputs = Mapping[str, np.ndarray]
Manifest = Mapping[str, Any]
# What an output has values for.
OF_TEXT, OF_TOKENS = "of the whole text", "for each token"
# What becomes of a second text, where it is not refused.
OPTIONAL, CONTEXT = "optional", "context"


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a task.

    default   what it is where it is not given
    choices   its values, where they are few
    valid     whether a value that is not None is in range
    remedy    what to give instead of one that is not
    """

    default: Any = None
    choices: Sequence[str | None] = ()
    valid: Callable[[Any], bool] | None = None
    remedy: str = ""

    def check(self, name: str, value: Any) -> None:
        """InputError for a value that it cannot have."""
        if self.choices and value not in self.choices:
            named = ", ".join(c for c in self.choices if c)
            raise InputError(f"{name} '{value}' is not one of {named}")
        if value is not None and self.valid is not None and not self.valid(value):
            shown = f"'{value}'" if isinstance(value, str) else value
            raise InputError(f"{name} is {shown}; give {self.remedy}")


def count(default: int | None) -> Option:
    """An option that is a number of things."""
    return Option(default, valid=lambda value: value >= 1, remedy="at least 1")


class Task:
    """A task: its options, how the outputs of a library become the result for a text, and what is
    said of that. Its modules know no model; what they need of it is handed to them.

    name      as the manifest has it
    options   by their names in Python; on the command line, `canao run` has those that are also
              parameters of `cli/app.py::run`
    pairs     "" where a second text is refused; OPTIONAL, or CONTEXT where it is required, and
              read in windows if it is long
    windows   whether a long text is read in windows
    per       OF_TEXT or OF_TOKENS where results are read from outputs of that kind only, else ""
    outputs   the names of those outputs, if it is not the first one
    scored    whether scores are made of these outputs, so that it matters whether the model makes
              them itself
    bounded   whether outputs that a function with bounds ends in, like tanh, are such scores
    """

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Option]] = {}
    pairs: ClassVar[str] = ""
    windows: ClassVar[bool] = False
    per: ClassVar[str] = ""
    outputs: ClassVar[tuple[str, ...]] = ()
    scored: ClassVar[bool] = False
    bounded: ClassVar[bool] = False

    def read(self, manifest: Manifest) -> tuple[str, Sequence[str]]:
        """`per` and `outputs` of the model with this manifest."""
        return self.per, self.outputs

    def check(self, given: Mapping[str, Any], manifest: Manifest) -> None:
        """InputError where options that are right one by one do not go together."""

    def require(self, prepared: Prepared, manifest: Manifest, tokenizer: Any) -> None:
        """InputError where a text lacks what the task needs."""

    def interpret(
        self, prepared: Prepared, outputs: Sequence[Outputs], manifest: Manifest, tokenizer: Any
    ) -> Any:
        """The result for a text, from the outputs of its windows, which have no batch dimension."""
        raise NotImplementedError

    def form(self, prepared: Prepared, result: Any) -> dict[str, Any]:
        """The entries of a result in JSON."""
        raise NotImplementedError

    def lines(self, result: Any, options: Mapping[str, Any]) -> Iterator[str]:
        """A result for people; `options` are those that were given."""
        raise NotImplementedError

    def described(self, head: Manifest) -> Iterator[tuple[str, str]]:
        """(name, what it is) of what a model's entries in the manifest say of its results."""
        yield from ()


def first_of(outputs: Outputs) -> np.ndarray:
    """The first output, which is the head's."""
    return next(iter(outputs.values()))


NOTHING = "          nothing found"
