"""LoadedModel: a Hugging Face directory as a torch module in eval mode, with its configuration.

Weights are read from safetensors only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canao.errors import InputError, UnsupportedError
from canao.model.checkpoint import read_json, weight_files
from canao.model.sentence import Sentence, read_sentence


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A torch module (float32, eval mode), its configuration, and the directory it came from.

    `sentence` is how token vectors are pooled into one, for a directory of Sentence-Transformers.
    """

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
        """The most tokens that the model takes; 512 if its configuration sets no limit."""
        stated = int(getattr(self.config, "max_position_embeddings", 0) or 0)
        return stated if stated > 0 else 512


def load_directory(path: str | Path) -> LoadedModel:
    """The model in a Hugging Face directory; InputError names what is missing or damaged."""
    path = Path(path)
    sentence = read_sentence(path)
    path = sentence.transformer if sentence is not None else path
    check_directory(path)
    _check_shards(path)
    import safetensors
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise InputError(f"{path}/config.json: {_one_line(error)}") from None
    # Sentence-Transformers ignores the head, whichever one was trained with these weights.
    kind = _model_class(path, config, bare=sentence is not None)
    try:
        module, loading = kind.from_pretrained(
            path, config=config, local_files_only=True, trust_remote_code=False,
            use_safetensors=True, dtype="float32",
            output_loading_info=True, ignore_mismatched_sizes=True,
            # Named here, because config.json could name one that has to be downloaded.
            attn_implementation="sdpa" if getattr(kind, "_supports_sdpa", False) else "eager",
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: cannot load the model: {_one_line(error)}") from None
    _check_loaded(path, loading)
    # The parameters of the activation xielu stay bfloat16 whatever dtype is asked for.
    return LoadedModel(module.float().eval(), config, path, sentence)


def _check_loaded(path: Path, loading: dict[str, Any]) -> None:
    wrong = sorted(loading["mismatched_keys"])
    if wrong:
        name, stored, wanted = wrong[0]
        raise InputError(
            f"{path}: weight {name} has shape {tuple(stored)} where config.json calls for "
            f"{tuple(wanted)}; give the configuration that the weights were saved with"
        )
    # Checkpoints often leave out the pooler of a bare encoder; then nobody uses its output.
    missing = sorted(k for k in loading["missing_keys"] if not k.startswith("pooler."))
    if missing:
        raise InputError(
            f"{path}: the checkpoint lacks {len(missing)} weights, first {missing[0]}; "
            "fine-tune and save the model before compiling it"
        )


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
    read_json(path / "config.json")
    if not any(path.glob("*.safetensors")):
        hint = "pickled weights are never loaded; " if any(path.glob("*.bin")) else ""
        raise InputError(f"{path}: no .safetensors file; {hint}save with safetensors")


def _check_shards(path: Path) -> None:
    """InputError for a weight file that is missing or damaged."""
    import safetensors

    for file in weight_files(path):
        try:
            with safetensors.safe_open(file, "numpy"):
                pass
        except (OSError, safetensors.SafetensorError) as error:
            raise InputError(f"{file}: damaged ({_one_line(error)}); download it again") from None


def _model_class(path: Path, config: Any, bare: bool) -> Any:
    """The class that config.json names; if it names none, or for a bare model, the family's own."""
    import transformers

    named = (getattr(config, "architectures", None) or [None])[0]
    if bare or named is None:
        found = transformers.MODEL_MAPPING.get(type(config), transformers.AutoModel)
        return found[0] if isinstance(found, tuple) else found
    kind = getattr(transformers, named, None)
    if kind is None or not hasattr(kind, "from_pretrained"):
        raise UnsupportedError(
            f"{path}/config.json: architecture '{named}' is not one that Transformers has"
        )
    return kind


def _one_line(error: BaseException) -> str:
    if "trust_remote_code" in str(error):
        return ("it names code of its own (auto_map), and CANAO runs no code of a model directory; "
                "save the model as a class of Transformers")  # fmt: skip
    if isinstance(error, KeyError):
        return f"unknown name {error}"
    return " ".join(str(error).split())[:300] or type(error).__name__
