"""Which entries of config.json one family of models reads, told by the family's own code.

Transformers takes any entry of config.json, and passes over those that its code does not know. So
the entries that count are found in that code: the names that it reads from a configuration.
"""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from canao.model.inventory.table import Entry, inert, used

# `config.hidden_size`, `getattr(config, "head_dim", None)`.
_READ = re.compile(r"\bconfig\.(\w+)|getattr\(\s*(?:self\.)?\w*config,\s*\"(\w+)\"")
# What a configuration's own code reads of itself and of what it is given.
_READ_ITSELF = re.compile(
    r"\bself\.(\w+)|getattr\(\s*self,\s*\"(\w+)\"|\.(?:pop|get)\(\s*\"(\w+)\""
)
# Modules of Transformers that all families share.
_MODELS = "transformers.models."
_BLOCKS = "canao.model.blocks"  # the one family that is not of Transformers
_SHARED = ("modeling_rope_utils", "masking_utils", "modeling_layers")


def family_entry(config_class: type, model_class: type, name: str) -> Entry | None:
    """What the entry `name` of config.json does for this model; None if its code knows none such.

    An entry that the family declares and does not read is without effect as long as it has the
    value that the family takes it to have.
    """
    family = getattr(config_class, "model_type", "")
    if name in _names_read(config_class, model_class):
        return used(f"read by Transformers' code of {family}")
    default = _defaults(config_class)
    if name in default:
        return inert(
            f"Transformers' code of {family} does not read it", only=(default[name], None),
            remedy="the model cannot have been trained by that code; it cannot be compiled",
        )
    return None


@cache
def _names_read(config_class: type, model_class: type) -> frozenset[str]:
    found: set[str] = set()
    for source in _sources(model_class):
        found.update(*_READ.findall(source))
    for source in _sources(config_class):
        found.update(*_READ_ITSELF.findall(source))
    found.update(*_READ_ITSELF.findall(_shared("modeling_rope_utils")))
    for name in _SHARED:
        found.update(*_READ.findall(_shared(name)))
    # GPT-2 calls the hidden size n_embd, and code reads it by either name.
    aliases = getattr(config_class, "attribute_map", {})
    found.update(new for new, old in aliases.items() if old in found)
    found.update(old for new, old in aliases.items() if new in found)
    return frozenset(found) - {""}


def _sources(kind: type) -> list[str]:
    """The source of a class's module, and of the modules of Transformers that it inherits from."""
    modules = {c.__module__ for c in kind.__mro__
               if c.__module__.startswith(_MODELS) or c.__module__ == _BLOCKS}  # fmt: skip
    return [_source(sys.modules[name]) for name in sorted(modules)]


def _shared(name: str) -> str:
    import importlib

    return _source(importlib.import_module(f"transformers.{name}"))


@cache
def _source(module: Any) -> str:
    return Path(inspect.getfile(module)).read_text(encoding="utf-8")


@cache
def _defaults(config_class: type) -> dict[str, Any]:
    """The entries that a family declares beyond those of all families, with its values."""
    import transformers

    common = set(transformers.PreTrainedConfig().to_dict())
    return {k: v for k, v in config_class().to_dict().items() if k not in common}
