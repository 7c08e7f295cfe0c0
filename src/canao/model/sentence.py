"""How Sentence-Transformers makes one vector of a text: by the modules after the model.

modules.json lists the modules in order: Transformer, Pooling, then any number of Dense and
Normalize. This file reads them; embedding.py computes them, and they are compiled with the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from canao.errors import InputError, UnsupportedError
from canao.model.checkpoint import read_json

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_OLDER_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Classes of torch.nn that a Dense module may name. No other name from a file is ever looked up.
ACTIVATIONS = ("GELU", "Hardswish", "Identity", "LeakyReLU", "Mish", "ReLU", "Sigmoid",
               "SiLU", "Softplus", "Tanh")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear map with an activation: weight [out, in], bias [out] or None; float32 tensors."""

    weight: Any
    bias: Any
    activation: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """How one vector is made of a text.

    transformer  the directory of the Transformers model and its tokenizer
    pooling      one or more of POOLINGS; the results of several are concatenated
    modules      what follows, in order: a Dense module, or None to scale the vector to length 1
    max_tokens   longer sequences are truncated; None: the model's maximum decides
    lowercase    whether texts are lower-cased before anything else
    prompt       text that is put before every text
    """

    transformer: Path
    pooling: tuple[str, ...]
    modules: tuple[Dense | None, ...] = field(compare=False)
    max_tokens: int | None = None
    lowercase: bool = False
    prompt: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The entry `pooling` of a manifest."""
        dense = [module for module in self.modules if module is not None]
        return {
            "modes": list(self.pooling),
            "dense": [[len(module.weight), module.activation] for module in dense],
            "normalize": None in self.modules,
            "max_tokens": self.max_tokens,
            "lowercase": self.lowercase,
            "prompt": self.prompt,
        }


def transformer_directory(path: Path) -> Path:
    """The directory of the Transformers model: `path`, or the part that modules.json names."""
    modules = _modules(path)
    return _part(path, modules[0], "") if modules else path


def read_sentence(path: Path | None) -> Sentence | None:
    """The modules of a Sentence-Transformers directory; None for any other directory.

    UnsupportedError for modules of other kinds; InputError for files that cannot be read.
    """
    modules = _modules(path) if path is not None else []
    if path is None or not modules:
        return None
    kinds = [_kind(m) for m in modules]
    known = kinds[:2] == ["Transformer", "Pooling"] and set(kinds[2:]) <= {"Dense", "Normalize"}
    if not known:
        raise UnsupportedError(
            f"{path}/modules.json: modules {', '.join(kinds)} are not supported; Transformer "
            "and Pooling are, in this order, and after them Dense and Normalize"
        )
    folder = _part(path, modules[0], "")
    pooling = read_json(_part(path, modules[1], "1_Pooling") / "config.json")
    found = sorted(folder.glob("sentence_*_config.json"))
    settings = read_json(found[0]) if found else {}
    task = settings.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise UnsupportedError(f"{folder}: sentence embeddings of a {task} model are not supported")
    return Sentence(
        folder,
        _poolings(path, pooling),
        tuple(
            _dense(_part(path, m, f"{i}_Dense")) if kind == "Dense" else None
            for i, (m, kind) in enumerate(zip(modules[2:], kinds[2:], strict=True), 2)
        ),
        _limit(folder, settings),
        bool(settings.get("do_lower_case", False)),
        _prompt(path, pooling),
    )


def _modules(path: Path) -> list[dict[str, Any]]:
    """The modules that modules.json lists; none if the model itself is the only one."""
    if not (path / "modules.json").is_file():
        return []
    modules = read_json(path / "modules.json", list)
    if not modules or not all(isinstance(m, dict) for m in modules):
        raise InputError(f"{path}/modules.json: lists no modules; save the model again")
    return [] if [_kind(m) for m in modules] == ["Transformer"] else modules


def _kind(module: Mapping[str, Any]) -> str:
    return str(module.get("type", "")).rpartition(".")[2]


def _part(path: Path, module: Mapping[str, Any], usual: str) -> Path:
    """A module's directory, which must lie inside the model's."""
    place = PurePosixPath(str(module.get("path", usual)))
    if place.is_absolute() or ".." in place.parts:
        raise InputError(f"{path}/modules.json: path '{place}' leaves the directory; correct it")
    return path / place


def _poolings(path: Path, pooling: Mapping[str, Any]) -> tuple[str, ...]:
    declared = pooling.get("pooling_mode")
    if declared is None:
        declared = [mode for key, mode in _OLDER_POOLINGS.items() if pooling.get(key)]
    modes = (declared,) if isinstance(declared, str) else tuple(map(str, declared))
    if not modes or not set(modes) <= set(POOLINGS):
        raise UnsupportedError(
            f"{path}: pooling {list(modes)} is not supported; {', '.join(POOLINGS)} are"
        )
    return modes


def _limit(folder: Path, settings: Mapping[str, Any]) -> int | None:
    """The length that sequences are truncated to; newer versions keep it with the tokenizer."""
    limit = settings.get("max_seq_length")
    if not limit and (folder / "tokenizer_config.json").is_file():
        limit = read_json(folder / "tokenizer_config.json").get("model_max_length")
    return int(limit) if isinstance(limit, (int, float)) and 0 < limit < 2**31 else None


def _prompt(path: Path, pooling: Mapping[str, Any]) -> str:
    """The default prompt, which Sentence-Transformers puts before a text if no other is named."""
    if not (path / "config_sentence_transformers.json").is_file():
        return ""
    settings = read_json(path / "config_sentence_transformers.json")
    prompt = (settings.get("prompts") or {}).get(settings.get("default_prompt_name")) or ""
    if prompt and not pooling.get("include_prompt", True):
        raise UnsupportedError(
            f"{path}: pooling without the tokens of its prompt is not supported; "
            "set include_prompt or remove default_prompt_name"
        )
    return prompt


def _dense(path: Path) -> Dense:
    """Read a Dense module: its configuration, and its weights from safetensors."""
    import safetensors
    import safetensors.torch

    settings = read_json(path / "config.json")
    named = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh"))
    package, _, activation = named.rpartition(".")
    if not package.startswith("torch.nn") or activation not in ACTIVATIONS:
        raise UnsupportedError(
            f"{path}: activation '{named}' is not supported; {', '.join(ACTIVATIONS)} are"
        )
    # Newer versions allow Dense modules on token vectors.
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key) not in (None, "sentence_embedding"):
            raise UnsupportedError(
                f"{path}: a Dense module for '{settings[key]}' is not supported; one for "
                "'sentence_embedding' is"
            )
    file = path / "model.safetensors"
    if not file.is_file():
        hint = "pickled weights are never loaded; " if any(path.glob("*.bin")) else ""
        raise InputError(f"{file}: no such file; {hint}save the model with safetensors")
    try:
        tensors = safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{file}: cannot be read ({error}); save the model again") from None
    weight, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    if weight is None or weight.dim() != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise InputError(f"{file}: holds no linear.weight and linear.bias that fit; save it again")
    return Dense(weight.float(), None if bias is None else bias.float(), activation)
