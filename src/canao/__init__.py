"""CANAO: a latency budget in, a certified native language model out.

    compiled = canao.compile("model/")                # CompiledModel
    logits = compiled(input_ids, token_type_ids)      # NumPy in, NumPy out
    best = canao.search(teacher="model/", data="data.tsv", budget_ms=8.0)

Heavy packages load when they are used: importing canao loads neither torch nor transformers.
"""

from __future__ import annotations

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
    from canao.api import compile, load, search, tune
    from canao.artifact.directory import Artifact
    from canao.inference.compiled_model import CompiledModel
    from canao.model.arch import Arch

__all__ = [
    "Arch",
    "Artifact",
    "BudgetError",
    "CanaoError",
    "CompiledModel",
    "DeviceError",
    "InputError",
    "ToolchainError",
    "UnsupportedError",
    "compile",
    "load",
    "search",
    "tune",
]
_HOMES = {
    "Arch": "canao.model.arch",
    "Artifact": "canao.artifact.directory",
    "CompiledModel": "canao.inference.compiled_model",
    "compile": "canao.api",
    "load": "canao.api",
    "search": "canao.api",
    "tune": "canao.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'canao' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
