"""A Hugging Face directory -> module in eval mode, for compilation. Safetensors only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canao.errors import InputError, UnsupportedError
from canao.model.sentence import Sentence, read_sentence


@dataclass(frozen=True, slots=True)
class Source:
    """A loaded model: the module (float32, eval), its configuration and where it came from.
    `sentence` says how its vectors become one, where Sentence-Transformers wrote it."""

    module: Any
    config: Any
    path: Path | None
    sentence: Sentence | None = None

    @property
    def kind(self) -> str:
        """The name of the model's class."""
        return type(self.module).__name__

    @property
    def max_length(self) -> int:
        """The most tokens that the model takes."""
        return int(getattr(self.config, "max_position_embeddings", 512))


def load_source(path: str | Path) -> Source:
    """The model in a Hugging Face directory. InputError says what is missing or damaged."""
    path = Path(path)
    sentence = read_sentence(path)
    path = sentence.transformer if sentence is not None else path
    check_directory(path)
    import safetensors
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}/config.json: {_first_line(error)}") from None
    # Sentence-Transformers reads no head, whatever was trained with the weights.
    kind = transformers.AutoModel if sentence is not None else _model_class(path, config)
    # A few families have none but the attention that is written out; AutoModel chooses by itself.
    attention = "sdpa" if getattr(kind, "_supports_sdpa", False) else None
    try:
        module, loading = kind.from_pretrained(
            path, config=config, local_files_only=True, use_safetensors=True, dtype="float32",
            output_loading_info=True, attn_implementation=attention,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: cannot load its weights: {_first_line(error)}") from None
    # The pooler of a bare encoder is often left out of checkpoints, and no user reads it then.
    missing = sorted(k for k in loading["missing_keys"] if not k.startswith("pooler."))
    if missing:
        raise InputError(
            f"{path}: the checkpoint lacks {len(missing)} weights, first {missing[0]}; "
            "fine-tune and save the model before compiling it"
        )
    return Source(module.eval(), config, path, sentence)


def check_directory(path: Path) -> None:
    """InputError unless `path` holds a configuration and weights as safetensors."""
    if not path.exists():
        raise InputError(f"{path}: no such directory; give a Hugging Face model directory")
    if not path.is_dir():
        raise InputError(
            f"{path}: not a directory; give a Hugging Face model directory or an .onnx file"
        )
    if not (path / "config.json").is_file():
        raise InputError(f"{path}: no config.json; give a Hugging Face model directory")
    try:
        json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}/config.json: not valid JSON ({error})") from None
    if not any(path.glob("*.safetensors")):
        hint = "pickled weights are never loaded; " if any(path.glob("*.bin")) else ""
        raise InputError(f"{path}: no .safetensors file; {hint}save with safetensors")


def _model_class(path: Path, config: Any) -> Any:
    import transformers

    named = (getattr(config, "architectures", None) or [None])[0]
    if named is None:
        return transformers.AutoModel
    kind = getattr(transformers, named, None)
    if kind is None or not hasattr(kind, "from_pretrained"):
        raise UnsupportedError(
            f"{path}/config.json: architecture '{named}' is not one that Transformers has"
        )
    return kind


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
