"""The modules that modules.json of a Sentence-Transformers directory lists after the model, read
from their folders: numbers and tensors only; embedding.py computes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canao.artifact.reading import read_json
from canao.errors import InputError
from canao.model.inventory.inventory import Inventory
from canao.model.inventory.table import INERT, USED, Table
from canao.model.inventory.tables.sentence import (
    CNN,
    DENSE,
    DROPOUT,
    LAYER_NORM,
    LAYER_POOLING,
    NORMALIZE,
    OLDER_POOLINGS,
    POOLING,
    WORD_WEIGHTS,
)

# Classes of torch.nn that a Dense module may name. No other name from a file is ever looked up.
ACTIVATIONS = ("GELU", "Hardswish", "Identity", "LeakyReLU", "Mish", "ReLU", "ReLU6", "Sigmoid",
               "SiLU", "Softplus", "Tanh")  # fmt: skip
TORCH_PACKAGES = (
    "torch.nn",
    "torch.nn.modules",
    "torch.nn.modules.activation",
    "torch.nn.modules.linear",
)
SENTENCE, TOKENS = "sentence_embedding", "token_embeddings"


@dataclass(frozen=True, slots=True)
class Pooling:
    """Token vectors become one: `modes` side by side. The tokens of a prompt count, or not."""

    modes: tuple[str, ...]
    include_prompt: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """A linear map with an activation: weight [out, in], bias [out] or None; float32 tensors.

    `residual` is what is added to the result: nothing (None), the input itself (True), or the input
    times a weight [out, in].
    """

    weight: Any
    bias: Any
    activation: str
    residual: Any = None
    source: str = SENTENCE
    target: str = SENTENCE


@dataclass(frozen=True, slots=True)
class Normalize:
    """Vectors are scaled to length 1."""

    source: str = SENTENCE
    target: str = SENTENCE


@dataclass(frozen=True, slots=True, eq=False)
class LayerNorm:
    """A layer norm of the sentence's vector: weight and bias [width]."""

    weight: Any
    bias: Any


@dataclass(frozen=True, slots=True, eq=False)
class LayerPooling:
    """Token vectors become a weighted mean of those of layers from `start` on: weights [layers]."""

    start: int
    weights: Any


@dataclass(frozen=True, slots=True, eq=False)
class WordWeights:
    """Each token's vector is multiplied by a number of its own: weights [vocabulary]."""

    weights: Any


@dataclass(frozen=True, slots=True, eq=False)
class Convolutions:
    """Convolutions over the tokens, side by side: of each the weight [out, in, taps] and bias."""

    layers: tuple[tuple[Any, Any], ...]


Module = Pooling | Dense | Normalize | LayerNorm | LayerPooling | WordWeights | Convolutions


def read_module(kind: str, folder: Path, transformer: Path, inventory: Inventory) -> Module | None:
    """The module of class `kind` in its folder; None for one that does nothing at inference.

    What is refused is noted in the inventory. InputError for files that are missing or damaged.
    """
    module = READERS[kind](folder, transformer, inventory)
    if folder != inventory.root and folder.is_dir():
        inventory.sweep(folder)
    return module


def _settings(
    folder: Path, table: Table, inventory: Inventory, name: str = "config.json",
    *, required: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The entries that are used; none where there is no file and none is required."""
    path = folder / name
    return inventory.settings(path, table) if required or path.exists() else {}


def _pooling(folder: Path, _transformer: Path, inventory: Inventory) -> Pooling:
    settings = _settings(folder, POOLING, inventory, required=True)
    if not {"embedding_dimension", "word_embedding_dimension"}.intersection(settings):
        inventory.refuse(
            folder / "config.json",
            "embedding_dimension",
            "'embedding_dimension' is missing, without which Sentence-Transformers cannot load the "
            "module; give the width of the model's vectors",
        )
    declared = settings.get("pooling_mode")
    older = [mode for name, mode in OLDER_POOLINGS.items() if settings.get(name)]
    if declared is None:
        declared = older or ["mean"]
    elif older and set(older) != set(_tuple(declared)):
        inventory.refuse(
            folder / "config.json",
            "pooling_mode",
            f"'pooling_mode' is {declared} and the older "
            f"entries say {', '.join(older)}; take one of the two out",
        )
    if not declared:
        raise InputError(f"{folder}/config.json: 'pooling_mode' names none; name one")
    return Pooling(_tuple(declared), settings.get("include_prompt", True))


def _tuple(modes: str | Sequence[str]) -> tuple[str, ...]:
    return (modes,) if isinstance(modes, str) else tuple(modes)


def _dense(folder: Path, _transformer: Path, inventory: Inventory) -> Dense:
    settings = _settings(folder, DENSE, inventory, required=True)
    named = settings.get("activation_function", "torch.nn.modules.activation.Tanh")
    package, _, activation = named.rpartition(".")
    if package not in TORCH_PACKAGES or activation not in ACTIVATIONS:
        inventory.refuse(
            folder / "config.json", "activation_function",
            f"activation '{named}' is not supported; {', '.join(ACTIVATIONS)} of torch.nn are",
        )  # fmt: skip
    biased, added = settings.get("bias", True), settings.get("use_residual", False)
    names = ["linear.weight", *["linear.bias"] * biased]
    tensors = _tensors(folder, inventory, names, ["residual.weight"] * added)
    weight, bias = tensors["linear.weight"], tensors.get("linear.bias")
    residual = tensors.get("residual.weight", True) if added else None
    fits = weight.dim() == 2 and (bias is None or bias.shape == weight.shape[:1])
    square = weight.dim() == 2 and weight.shape[0] == weight.shape[1]
    if not fits or (added and (square if residual is not True else not square)):
        raise _unfit(folder, names)
    source = settings.get("module_input_name") or SENTENCE
    target = settings.get("module_output_name") or source
    return Dense(weight, bias, activation, residual, source, target)


def _normalize(folder: Path, _transformer: Path, inventory: Inventory) -> Normalize:
    settings = _settings(folder, NORMALIZE, inventory)
    source = settings.get("module_input_name") or SENTENCE
    return Normalize(source, settings.get("module_output_name") or source)


def _dropout(folder: Path, _transformer: Path, inventory: Inventory) -> None:
    _settings(folder, DROPOUT, inventory)


def _layer_norm(folder: Path, _transformer: Path, inventory: Inventory) -> LayerNorm:
    _settings(folder, LAYER_NORM, inventory, required=True)
    tensors = _tensors(folder, inventory, ["norm.weight", "norm.bias"])
    weight, bias = tensors["norm.weight"], tensors["norm.bias"]
    if weight.dim() != 1 or weight.shape != bias.shape:
        raise _unfit(folder, ["norm.weight", "norm.bias"])
    return LayerNorm(weight, bias)


def _layer_pooling(folder: Path, transformer: Path, inventory: Inventory) -> LayerPooling | None:
    settings = _settings(folder, LAYER_POOLING, inventory, required=True)
    weights = _tensors(folder, inventory, ["layer_weights"])["layer_weights"]
    start, last = settings.get("layer_start", 4), settings.get("num_hidden_layers", 12)
    if weights.dim() != 1 or len(weights) != last + 1 - start or start < 0 or len(weights) < 1:
        raise _unfit(folder, ["layer_weights"])
    if read_json(transformer / "config.json").get("output_hidden_states") is not True:
        # As in Sentence-Transformers: a model that does not give its layers is left as it is.
        inventory.note(folder / "config.json", "layer_start", INERT,
                       "config.json does not ask for output_hidden_states")  # fmt: skip
        return None
    return LayerPooling(start, weights)


def _word_weights(folder: Path, _transformer: Path, inventory: Inventory) -> WordWeights:
    import torch

    settings = _settings(folder, WORD_WEIGHTS, inventory, required=True)
    vocabulary, known = settings.get("vocab"), settings.get("word_weights")
    if not vocabulary or known is None:
        raise InputError(f"{folder}/config.json: lacks vocab or word_weights; save the model again")
    other = settings.get("unknown_word_weight", 1)
    weights = [known.get(word, known.get(word.lower(), other)) for word in vocabulary]
    for file in folder.glob("model.safetensors"):
        inventory.file(file, INERT, "the weights of config.json are read")
    return WordWeights(torch.tensor(weights, dtype=torch.float32))


def _convolutions(folder: Path, _transformer: Path, inventory: Inventory) -> Convolutions:
    settings = _settings(folder, CNN, inventory, "cnn_config.json", required=True)
    sizes = settings.get("kernel_sizes", [1, 3, 5])
    strides = settings.get("stride_sizes") or [1] * len(sizes)
    wrong = [size for size in sizes if size < 1 or size % 2 == 0]
    if wrong or strides != [1] * len(sizes):
        inventory.refuse(
            folder / "cnn_config.json",
            "kernel_sizes" if wrong else "stride_sizes",
            "a CNN that changes the number of tokens is not supported; odd kernel sizes and "
            "strides of 1 are",
        )
        return Convolutions(())
    names = [f"convs.{i}.{part}" for i in range(len(sizes)) for part in ("weight", "bias")]
    tensors = _tensors(folder, inventory, names)
    layers = tuple((tensors[f"convs.{i}.weight"], tensors[f"convs.{i}.bias"])
                   for i in range(len(sizes)))  # fmt: skip
    if not all(w.dim() == 3 and w.shape[2] == size and b.shape == w.shape[:1]
               for (w, b), size in zip(layers, sizes, strict=True)):  # fmt: skip
        raise _unfit(folder, names)
    return Convolutions(layers)


Reader = Callable[[Path, Path, Inventory], "Module | None"]
# By the class of the module; Dropout does nothing at inference.
READERS: Mapping[str, Reader] = {
    "Pooling": _pooling,
    "Dense": _dense,
    "Normalize": _normalize,
    "Dropout": _dropout,
    "LayerNorm": _layer_norm,
    "WeightedLayerPooling": _layer_pooling,
    "WordWeights": _word_weights,
    "CNN": _convolutions,
}


def _tensors(
    folder: Path, inventory: Inventory, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Any]:
    """The float32 tensors of model.safetensors, which holds these and none besides."""
    tensors, _ = read_tensors(folder / "model.safetensors", inventory)
    missing = [name for name in names if name not in tensors]
    if missing:
        raise _unfit(folder, names)
    more = sorted(tensors.keys() - set(names) - set(optional))
    if more:
        raise InputError(
            f"{folder}/model.safetensors: the module has no place for weight {more[0]}; it belongs "
            "to another module, or config.json does"
        )
    return tensors


def read_tensors(
    file: Path, inventory: Inventory, what: str = "model"
) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors of a safetensors file in float32, and the strings stored with them.

    InputError for a file that is missing or damaged, or that holds anything but numbers.
    """
    import safetensors
    import torch

    if not file.is_file():
        hint = "pickled weights are never loaded; " if any(file.parent.glob("*.bin")) else ""
        raise InputError(f"{file}: no such file; {hint}save the {what} with safetensors")
    try:
        with safetensors.safe_open(file, "pt") as held:
            tensors = {name: held.get_tensor(name).float() for name in held.keys()}  # noqa: SIM118
            strings = dict(held.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{file}: cannot be read ({error}); save the {what} again") from None
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            kind = "NaN" if bool(torch.isnan(tensor).any()) else "infinite"
            raise InputError(f"{file}: weight {name} holds {kind} values; save the {what} again")
    inventory.file(file, USED, "weights")
    return tensors, strings


def _unfit(folder: Path, names: Sequence[str]) -> InputError:
    listed = " and ".join(names)
    return InputError(
        f"{folder}/model.safetensors: holds no {listed} that fit its settings; save it again"
    )
