"""What lies beside an .onnx file: its tokenizer, and its labels in a config.json.

The file itself says neither; Hugging Face's exporter puts both into the same directory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from canao.errors import InputError
from canao.model.source import Source


@dataclass(frozen=True, slots=True)
class OnnxSource(Source):
    """A model that came as a graph: there is no module, and its class is what the config names."""

    kind: str = "onnx"


def beside(path: str | Path, width: int | None) -> OnnxSource:
    """The source for an .onnx file whose first output has `width` columns.

    A config.json of another number of labels is taken to be about another model.
    """
    folder = Path(path).parent
    config = _config(folder / "config.json")
    labels = config.id2label
    if not labels or (width is not None and len(labels) != width):
        config = SimpleNamespace(model_type=config.model_type, num_labels=0, id2label={})
        kind = "onnx"
    else:
        kind = config.kind
    tokenizer = (folder / "tokenizer.json").is_file() or (
        (folder / "vocab.txt").is_file() and (folder / "config.json").is_file()
    )
    return OnnxSource(None, config, folder if tokenizer else None, kind)


def _config(path: Path) -> Any:
    """model_type, labels by number, their count and the class, of a config.json if there is one."""
    found: Any = {}
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a JSON object; remove it, or put the model's there")
    names = found.get("id2label") or {}
    try:
        labels = {int(k): str(v) for k, v in names.items()}
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{path}: id2label is not a mapping from numbers to names") from None
    kinds = found.get("architectures")
    kind = kinds[0] if isinstance(kinds, list) and kinds else "onnx"
    model_type = found.get("model_type")
    return SimpleNamespace(
        model_type=model_type if isinstance(model_type, str) else "onnx",
        id2label=labels, num_labels=len(labels), kind=str(kind),
    )  # fmt: skip
