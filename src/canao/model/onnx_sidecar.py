"""The files beside an .onnx file: its tokenizer, and a config.json with its labels.

An ONNX file contains neither; Hugging Face's exporter puts both into the same directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from canao.errors import InputError, UnsupportedError
from canao.model.checkpoint import read_json
from canao.model.loaded_model import LoadedModel
from canao.model.sentence import Sentence, read_sentence
from canao.model.tokenizer import describe_tokenizer


@dataclass(frozen=True, slots=True)
class LoadedOnnxModel(LoadedModel):
    """A model from an ONNX file: `module` is None, `kind` the class that config.json names."""

    kind: str = "onnx"


def read_sidecar(path: str | Path, width: int | None) -> LoadedOnnxModel:
    """What the files beside an .onnx file say of it; its first output has `width` columns.

    A config.json with another number of labels belongs to another model and is ignored.
    """
    folder = Path(path).parent
    config = _config(folder / "config.json")
    labels, kind = config.id2label, config.kind
    # Only a classifier is checked: Transformers writes two labels into any model's configuration.
    if kind.endswith("Classification") and width is not None and len(labels) != width:
        config = SimpleNamespace(model_type=config.model_type, num_labels=0, id2label={})
        kind = "onnx"
    # Converting a bare vocabulary to tokenizer.json needs the configuration.
    found = describe_tokenizer(folder)
    configured = (folder / "config.json").is_file()
    usable = found is not None and (configured or found["file"] == "tokenizer.json")
    return LoadedOnnxModel(None, config, folder if usable else None, _sentence(folder), kind)


def _sentence(folder: Path) -> Sentence | None:
    """How token vectors are pooled into one; UnsupportedError for modules with weights."""
    found = read_sentence(folder)
    if found is not None and any(found.modules):
        raise UnsupportedError(
            f"{folder}/modules.json: Dense modules beside an .onnx file are not supported; "
            "compile the directory that it was exported from"
        )
    return found


def _config(path: Path) -> Any:
    """Model type, labels by number, their count and the class, from config.json if it exists."""
    found = read_json(path) if path.is_file() else {}
    names = found.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}  # Transformers' own default
    try:
        labels = {int(k): str(v) for k, v in names.items()}
    except (AttributeError, TypeError, ValueError):
        raise InputError(
            f"{path}: id2label is not a mapping from numbers to names; correct it"
        ) from None
    kinds = found.get("architectures")
    kind = kinds[0] if isinstance(kinds, list) and kinds else "onnx"
    model_type = found.get("model_type")
    return SimpleNamespace(
        model_type=model_type if isinstance(model_type, str) else "onnx",
        id2label=labels, num_labels=len(labels), kind=str(kind),
        problem_type=found.get("problem_type"),
    )  # fmt: skip
