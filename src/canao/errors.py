"""What can go wrong, as one tree.

    CanaoError                 exit code
    ├── InputError             2  a file, option or value the user gave
    ├── UnsupportedError       3  a model uses something that CANAO does not compile
    ├── ToolchainError         4  the C compiler failed, or there is no room for its output
    ├── DeviceError            5  the device could not run or measure a library
    └── BudgetError            1  a budget is missed, or nothing keeps it

Every message is one line that names what is wrong and how to put it right. The command line prints
it and ends with the exit code. Anything else that is raised ends with 70 (`cli/ending.py`): 1 is a
missed budget and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# What Python writes of a function or an object: <function f at 0x7f..>, <a.B object at 0x7f..>.
_WITH_ADDRESS = re.compile(
    r"<(?:built-in |bound )?(?:function |method )?([^<>\s]+)[^<>]*? at 0x[0-9a-fA-F]+>"
)
_ADDRESS = re.compile(r"(?: at)? 0x[0-9a-fA-F]{8,}")


def plain(text: str) -> str:
    """A text without addresses in memory, which mean nothing to anybody: things by their names."""
    return _ADDRESS.sub("", _WITH_ADDRESS.sub(r"\1", text))


class CanaoError(Exception):
    """Base of every error that a user can cause or fix."""

    exit_code = 2

    def __init__(self, *args: object) -> None:
        super().__init__(*(plain(a) if isinstance(a, str) else a for a in args))


class InputError(CanaoError):
    """A file, option or value that the user gave cannot be used."""


class AccuracyError(InputError):
    """A precision loses more of a model's answers than was allowed, or cannot hold its numbers."""


class DivergedError(InputError):
    """A training's loss is no number, even at a quarter of the learning rate."""


class NotFiniteError(AccuracyError):
    """A model has weights, or computes numbers, that are infinite or none at all, in float32
    already: no other precision of it can be judged, and none should be chosen instead."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An operator that CANAO does not compile.

    where    its place in the source model
    hint     what the user can do
    detail   which use of the operator is not supported; '' if none is
    """

    operator: str
    where: str
    hint: str
    detail: str = ""

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return (
            f"operator {self.operator} at {self.where}{detail} is not supported; {self.hint}"
        )


class UnsupportedError(CanaoError):
    """The model has an operator, dtype or shape that CANAO does not compile.

    `problems` lists all operators if the importer continued after the first; `refusals` all files
    and entries of a model directory that are refused, a line for each.
    """

    exit_code = 3

    def __init__(
        self, message: str, problems: Sequence[Problem] = (), refusals: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
        self.refusals = tuple(refusals)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> UnsupportedError:
        """The error for several problems: one line about the first, and how many more there are."""
        more = len(problems) - 1
        rest = f" ({more} more: see `canao inspect`)" if more else ""
        return cls(f"{problems[0]}{rest}", problems)

    @classmethod
    def refused(cls, refusals: Sequence[str]) -> UnsupportedError:
        """The error for several refused files or entries, in the same way."""
        more = len(refusals) - 1
        rest = f" ({more} more: see `canao inspect`)" if more else ""
        return cls(f"{refusals[0]}{rest}", refusals=refusals)


class ToolchainError(CanaoError):
    """The C toolchain failed, or its output could not be written."""

    exit_code = 4


class DeviceError(CanaoError):
    """The device could not load, run or measure the library."""

    exit_code = 5


class BudgetError(CanaoError):
    """A budget is missed, or no candidate can keep it."""

    exit_code = 1
