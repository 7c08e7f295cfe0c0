"""Transformers' classes of tokenizers: which of them may read a directory, and what each reads."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from canao.artifact.reading import read_json
from canao.model.tokenizing.files import CONFIG


def named_classes(path: Path) -> list[type]:
    """The classes of tokenizers that the settings name."""
    found = []
    for name in (CONFIG, "config.json"):
        named = read_json(path / name).get("tokenizer_class") if (path / name).is_file() else None
        found += [kind for kind in [_class(named)] if kind is not None]
    return found


def classes_of(path: Path, config: Mapping[str, Any]) -> list[type]:
    """The classes that may read a directory: those that are named, and the family's own."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    model = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    family = model.get("model_type")
    names = [config.get("tokenizer_class"), model.get("tokenizer_class"),
             TOKENIZER_MAPPING_NAMES.get(family) if isinstance(family, str) else None,
             "TokenizersBackend"]  # fmt: skip
    return [kind for kind in map(_class, names) if kind is not None]


def _class(name: Any) -> type | None:
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    if not isinstance(name, str) or not name.isidentifier():
        return None
    try:
        found = tokenizer_class_from_name(name) or tokenizer_class_from_name(f"{name}Fast")
    except Exception:  # noqa: BLE001  modules that need packages which are not installed
        return None
    return found if isinstance(found, type) else None


def in_python(kind: type) -> bool:
    """Whether a class of tokenizers is none of the tokenizers library."""
    import transformers

    return issubclass(kind, transformers.PreTrainedTokenizerBase) and not issubclass(
        kind, transformers.PreTrainedTokenizerFast
    )


def is_base(kind: type) -> bool:
    import transformers

    return kind is transformers.PreTrainedTokenizerFast


def parameters(kind: type) -> frozenset[str]:
    init = kind.__dict__.get("__init__")
    if not inspect.isfunction(init):
        return frozenset()
    return frozenset(inspect.signature(init).parameters) - {"self", "args", "kwargs"}
