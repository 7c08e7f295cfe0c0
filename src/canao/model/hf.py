"""Hugging Face models for training: the one place that knows the names of their modules.

Everything is read from local directories, weights from safetensors only, and code that comes
with a model is never run.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from canao.artifact.files import staged_directory
from canao.artifact.reading import read_json
from canao.defaults import LIMITS
from canao.errors import InputError, UnsupportedError
from canao.model import blocks
from canao.model.arch import Arch
from canao.model.blocks import BlockBertConfig
from canao.model.checkpoint import weight_files
from canao.model.config import FILE, read_config
from canao.model.embedder import Embedder, Vectors, load_embedder, save_embedder
from canao.model.heads import LABELS_OF_TEXT, Head, head_for
from canao.model.inventory.inventory import Inventory
from canao.model.loaded_model import check_finite, check_left_over, survey
from canao.model.tokenizer import open_tokenizer

# What transformers raises on a damaged or odd directory; it has no base class of its own.
_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError,
           SafetensorError, StrictDataclassError)  # fmt: skip
_HEAD = "classifier."
_HALF = re.compile(r"(?:^|\.)encoder\.layer\.(\d+)\.(attention|intermediate|output)(?:\.|$)")


@dataclass(frozen=True)
class Attention:
    """The modules of a layer's attention; `heads` is how many heads there are."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    norm: nn.LayerNorm
    heads: int


@dataclass(frozen=True)
class Ffn:
    """The modules of a layer's feed-forward network."""

    up: nn.Linear
    activation: Callable[[Tensor], Tensor]
    down: nn.Linear
    norm: nn.LayerNorm


@dataclass(frozen=True)
class Layer:
    """The two halves of an encoder layer, of which a student may lack one."""

    attention: Attention | None
    ffn: Ffn | None

    @property
    def end(self) -> nn.LayerNorm:
        """The norm whose output is the layer's."""
        last = self.ffn or self.attention
        assert last is not None
        return last.norm


def both(layer: Layer) -> tuple[Attention, Ffn]:
    """The halves of a layer that has both, as a teacher's have."""
    if layer.attention is None or layer.ffn is None:
        raise InputError("a layer of the teacher has no attention or no FFN; give a whole model")
    return layer.attention, layer.ffn


@dataclass(frozen=True)
class Parts:
    """The modules of a classifier: embeddings, layers from the input up, pooler and head. Without
    a pooler, the head reads the vector of each token, or the mean of a text's if `averages`."""

    words: nn.Embedding
    positions: nn.Embedding
    types: nn.Embedding
    embedding_norm: nn.LayerNorm
    layers: tuple[Layer, ...]
    pooler: nn.Linear | None
    head: nn.Linear
    averages: bool = False


def load_config(
    directory: str | Path, inventory: Inventory | None = None
) -> PreTrainedConfig:
    """The configuration of the BERT model in `directory`.

    InputError if it cannot be read, UnsupportedError for another family of models and for what
    `inventory` refuses.
    """
    directory = Path(directory)
    path = directory / FILE
    inventory = inventory or Inventory(directory)
    survey(directory, inventory)
    if not path.is_file():
        raise InputError(f"{directory}: no config.json; give a Hugging Face model directory")
    raw = read_json(path)
    if raw.get("model_type") != "bert":
        raise UnsupportedError(
            f"{path}: model_type is {raw.get('model_type')!r}; search needs a 'bert' teacher"
        )
    if raw.get("is_decoder"):
        raise UnsupportedError(f"{path}: a decoder; search needs an encoder")
    with _without_logs():
        config, _ = read_config(directory, inventory, limits=LIMITS)
    inventory.require()
    try:
        arch_of(config)
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {_first_line(error)}; correct the file") from None
    return config


def arch_of(config: PreTrainedConfig) -> Arch:
    """The architecture in a BERT configuration, or in one of blocks.py."""
    if isinstance(config, BlockBertConfig):
        return blocks.arch_of(config)
    return Arch.uniform(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        ffn=config.intermediate_size,
    )


def student_config(config: PreTrainedConfig, arch: Arch) -> PreTrainedConfig:
    """A copy of `config` with the architecture `arch`: one of BERT where its layers are alike."""
    if not arch.is_uniform:
        student = blocks.config_of(config, arch)
        student._name_or_path = ""
        return student
    student = copy.deepcopy(config)
    student.num_hidden_layers = arch.layers
    student.hidden_size = arch.hidden
    student.num_attention_heads = arch.heads
    student.intermediate_size = arch.ffn
    # from_pretrained leaves the teacher's path here, which save_pretrained would write.
    student._name_or_path = ""
    return student


def build_classifier(config: PreTrainedConfig, head: Head | None = None) -> PreTrainedModel:
    """A classifier with this configuration and random weights from torch's generator; of texts
    unless `head` is for something else."""
    with _without_logs():
        model: PreTrainedModel = (head or head_for(())).build(config)
    return model


def load_tokenizer(
    directory: str | Path, inventory: Inventory | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer in a model directory, read and judged as for a compilation.

    InputError if it is missing, damaged or has no padding token; UnsupportedError if it is one that
    could not be compiled with the model.
    """
    directory = Path(directory)
    own = inventory or Inventory(directory)
    found = open_tokenizer(directory, own)
    own.require()
    if found is None:
        raise InputError(f"{directory}: no tokenizer (tokenizer.json or vocab.txt); add its files")
    if found.python.pad_token_id is None:
        raise InputError(f"{directory}: the tokenizer has no padding token; name one in its files")
    return found.python


def load_classifier(
    directory: str | Path, labels: Sequence[str], inventory: Inventory | None = None,
    head: Head | None = None,
) -> PreTrainedModel:  # fmt: skip
    """The model in `directory` with a head for `labels` (none: one output, for regression).

    A head that was trained for the same labels is kept and put in the order of `labels`. Any other
    head is replaced by a new one with random weights from torch's generator. The model is in
    evaluation mode and float32.
    """
    directory = Path(directory)
    inventory = inventory or Inventory(directory)
    if isinstance(head, Vectors):
        load_config(directory, inventory)
        with _without_logs():
            return cast(PreTrainedModel, load_embedder(directory, inventory))
    config, head = load_config(directory, inventory), head or head_for(labels)
    keep = _head_order(directory, config, labels, head)
    set_labels(config, labels, head)
    try:
        with _without_logs():
            model, info = head.auto.from_pretrained(
                directory,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except _ERRORS as error:
        raise InputError(f"{directory}: weights cannot be read ({_first_line(error)})") from None
    _check_loaded(directory, info)
    with _without_logs():  # of classes that are made to see whose weights are left
        check_left_over(directory, config, type(model), info, inventory)
    inventory.require()
    last = parts_of(model).head
    with torch.no_grad():
        if keep is None:
            last.weight.normal_(0.0, config.initializer_range)
            last.bias.zero_()
        else:
            last.weight.copy_(last.weight[keep])
            last.bias.copy_(last.bias[keep])
    check_finite(directory, model)
    return model.eval()


def is_fine_tuned(
    directory: str | Path, labels: Sequence[str], inventory: Inventory | None = None,
    head: Head | None = None,
) -> bool:  # fmt: skip
    """Whether the checkpoint has a head for exactly these `labels` (none: for regression)."""
    if isinstance(head, Vectors):
        return True
    directory, config = Path(directory), load_config(directory, inventory)
    return _head_order(directory, config, labels, head or head_for(labels)) is not None


def parts_of(model: PreTrainedModel) -> Parts:
    """The modules of a BERT classifier, by their role."""
    bert = model.bert
    layers = [Layer(_attention(layer.attention), _ffn(layer)) for layer in bert.encoder.layer]
    embeddings = bert.embeddings
    return Parts(
        words=embeddings.word_embeddings,
        positions=embeddings.position_embeddings,
        types=embeddings.token_type_embeddings,
        embedding_norm=embeddings.LayerNorm,
        layers=tuple(layers),
        pooler=None if bert.pooler is None else bert.pooler.dense,
        head=model.classifier,
        averages=isinstance(model, Embedder) and model.head.mode == "mean",
    )


def half_of(path: str) -> int:
    """In which half of a layer the module at a path is: 2 * layer for its attention, and one more
    for its FFN; -1 for what is in no layer."""
    found = _HALF.search(path)
    return -1 if found is None else 2 * int(found[1]) + (found[2] != "attention")


def _attention(module: Any) -> Attention | None:
    if module is None:
        return None
    own, output = module.self, module.output
    return Attention(
        own.query, own.key, own.value, output.dense, output.LayerNorm, own.num_attention_heads
    )


def _ffn(layer: Any) -> Ffn | None:
    up, down = layer.intermediate, layer.output
    if up is None:
        return None
    return Ffn(up.dense, up.intermediate_act_fn, down.dense, down.LayerNorm)


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: str | Path
) -> None:
    """Write config.json, model.safetensors and the tokenizer: all of them or nothing."""
    if isinstance(model, Embedder):
        with _without_logs():
            save_embedder(model, tokenizer, Path(directory))
        return
    with staged_directory(Path(directory)) as temporary, _without_logs():
        model.save_pretrained(temporary, safe_serialization=True)
        tokenizer.save_pretrained(temporary)


def _head_order(
    directory: Path, config: PreTrainedConfig, labels: Sequence[str], head: Head
) -> list[int] | None:
    """For each label, its row in the checkpoint's head; None if the head is for other labels, or
    its scores mean something else."""
    rows = None
    for file in weight_files(directory):
        try:
            with safe_open(file, framework="pt") as tensors:
                if f"{_HEAD}weight" in tensors.keys():  # noqa: SIM118 - not a mapping
                    rows = tensors.get_slice(f"{_HEAD}weight").get_shape()[0]
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{file}: not a whole safetensors file ({_first_line(error)}); download it again"
            ) from None
    if rows != max(1, len(labels)):
        return None
    if head == LABELS_OF_TEXT and config.problem_type != head.problem:
        return None
    names = [str(config.id2label.get(i, f"LABEL_{i}")) for i in range(rows)]
    if sorted(names) == sorted(labels):
        return [names.index(label) for label in labels]
    # Generic names are assumed to be in the data's order; other names belong to another task.
    return list(range(rows)) if _generic(names) or _generic(labels) else None


def _generic(names: Sequence[str]) -> bool:
    return all(name in (str(i), f"LABEL_{i}") for i, name in enumerate(names))


def set_labels(
    config: PreTrainedConfig, labels: Sequence[str], head: Head | None = None
) -> None:
    """Make a configuration that of a classifier of `labels`; none: of a regression."""
    names = list(labels) or ["LABEL_0"]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    config.problem_type = (head or head_for(labels)).problem


def _check_loaded(directory: Path, info: Mapping[str, Any]) -> None:
    """InputError if weights of the encoder are missing; pooler and head may be."""
    missing = sorted(k for k in info["missing_keys"] if not k.startswith((_HEAD, "bert.pooler.")))
    if missing:
        raise InputError(
            f"{directory}: {len(missing)} weights are missing, such as {missing[0]}; "
            "give a complete checkpoint"
        )
    for key, found, expected in sorted(info["mismatched_keys"]):
        if not key.startswith(_HEAD):
            raise InputError(
                f"{directory}: {key} has shape {list(found)}, config.json says {list(expected)}; "
                "one of them belongs to another model"
            )


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200].rstrip(".")


@contextmanager
def _without_logs() -> Iterator[None]:
    """Silence the progress bars and load report of transformers inside the block."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
