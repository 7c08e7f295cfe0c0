"""Defaults that belong to no dataclass, and how to look up those that do.

The command line, the Python interface and the functions behind them take a default from here or
from the field of an options class, so that each is written once.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from types import SimpleNamespace
from typing import Any

TARGET = "host"
DEVICE = "local"
TOOLCHAIN = "zig"
TUNE_SECONDS = 90.0  # after which `canao tune` ends with what it has


def field_defaults(kind: type) -> SimpleNamespace:
    """The default of each field of a dataclass, by the field's name; required fields are absent."""
    found = {}
    for field in fields(kind):
        if field.default is not MISSING:
            found[field.name] = field.default
        elif field.default_factory is not MISSING:
            found[field.name] = field.default_factory()
    return SimpleNamespace(**found)


def silent(*_: Any) -> None:
    """The default of every progress callback: says nothing."""
