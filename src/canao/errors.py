"""What can go wrong, as one tree.

    CanaoError                 exit code
    ├── InputError             2  a file, option or value the user gave
    ├── UnsupportedError       3  a model uses something that CANAO does not compile
    ├── ToolchainError         4  the C compiler failed, or there is no room for its output
    ├── DeviceError            5  the device could not run or measure a library
    └── BudgetError            1  a latency budget is missed, or nothing fits it

Every message is one line that names what is wrong and how to put it right. The command line prints
it and ends with the exit code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class CanaoError(Exception):
    """Base of every error that a user can cause or fix."""

    exit_code = 2


class InputError(CanaoError):
    """A file, option or value that the user gave cannot be used."""


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

    `problems` lists all of them if the importer continued after the first.
    """

    exit_code = 3

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> UnsupportedError:
        """The error for several problems: one line about the first, and how many more there are."""
        more = len(problems) - 1
        rest = f" ({more} more: see `canao inspect`)" if more else ""
        return cls(f"{problems[0]}{rest}", problems)


class ToolchainError(CanaoError):
    """The C toolchain failed, or its output could not be written."""

    exit_code = 4


class DeviceError(CanaoError):
    """The device could not load, run or measure the library."""

    exit_code = 5


class BudgetError(CanaoError):
    """The latency budget is missed, or no candidate can meet it."""

    exit_code = 1
