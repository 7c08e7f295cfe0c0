"""CANAO: a latency budget in, a certified native language model out.

    compiled = canao.compile("model/")                # CompiledModel
    logits = compiled(input_ids, token_type_ids)      # NumPy in, NumPy out
    best = canao.search(teacher="model/", data="data.tsv", budget_ms=8.0)

Heavy packages load when they are used: importing canao loads neither torch nor transformers.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from canao.errors import (
    BudgetError,
    CanaoError,
    DeviceError,
    InputError,
    ToolchainError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from canao.api import (
        compile,
        distil,
        load,
        search,
        search_budgets,
        search_devices,
        tune,
        worker,
    )
    from canao.artifact.directory import Artifact
    from canao.inference.compiled_model import CompiledModel
    from canao.inference.pick import pick
    from canao.model.arch import Arch, Block

__all__ = [
    "Arch",
    "Artifact",
    "Block",
    "BudgetError",
    "CanaoError",
    "CompiledModel",
    "DeviceError",
    "InputError",
    "ToolchainError",
    "UnsupportedError",
    "compile",
    "distil",
    "load",
    "pick",
    "search",
    "search_budgets",
    "search_devices",
    "tune",
    "worker",
]
_HOMES = {
    "Arch": "canao.model.arch",
    "Block": "canao.model.arch",
    "Artifact": "canao.artifact.directory",
    "CompiledModel": "canao.inference.compiled_model",
    "compile": "canao.api",
    "distil": "canao.api",
    "load": "canao.api",
    "pick": "canao.inference.pick",
    "search": "canao.api",
    "search_budgets": "canao.api",
    "search_devices": "canao.api",
    "tune": "canao.api",
    "worker": "canao.api",
}


class _Search(ModuleType):
    """The room canao/search/, which can be called as the function of the same name."""

    def __call__(self, **options: Any) -> Any:
        from importlib import import_module

        return import_module(_HOMES["search"]).search(**options)


class _Package(ModuleType):
    """This module. Python sets `search` to the room of that name once it is imported, which hides
    the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "search" and isinstance(value, ModuleType):
            value.__class__ = _Search
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'canao' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


sys.modules[__name__].__class__ = _Package
