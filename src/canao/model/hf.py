"""Hugging Face models for training. What is particular to a family of them is in families/.

Everything is read from local directories, weights from safetensors only, and code that comes
with a model is never run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from canao.artifact.files import staged_directory
from canao.artifact.reading import first_line, read_json
from canao.defaults import LIMITS
from canao.errors import InputError, UnsupportedError
from canao.model import blocks
from canao.model.arch import Arch
from canao.model.directory.checkpoint import weight_files
from canao.model.directory.config import FILE, read_config
from canao.model.directory.loaded_model import (
    WEIGHTS,
    check_finite,
    check_left_over,
    is_pooler,
    survey,
)
from canao.model.embedder import Embedder, Vectors, load_embedder, save_embedder
from canao.model.families.family import Family
from canao.model.families.parts import Parts
from canao.model.families.table import FAMILIES, family_of
from canao.model.heads import LABELS_OF_TEXT, Head, head_for
from canao.model.inventory.inventory import Inventory
from canao.model.inventory.table import INERT
from canao.model.tokenizing.tokenizer import open_tokenizer

# What transformers raises on a damaged or odd directory; it has no base class of its own.
_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError,
           SafetensorError, StrictDataclassError)  # fmt: skip


@dataclass(frozen=True)
class Takes:
    """What a model takes of a text: so many tokens at most, and so many token types; 0 where its
    family has none."""

    tokens: int
    types: int


def load_config(
    directory: str | Path, inventory: Inventory | None = None
) -> PreTrainedConfig:
    """The configuration of the teacher in `directory`.

    InputError if it cannot be read, UnsupportedError for another family of models than those of
    families/table.py, for settings that are not supported, and for what `inventory` refuses.
    """
    directory = Path(directory)
    path = directory / FILE
    inventory = inventory or Inventory(directory)
    survey(directory, inventory)
    if not path.is_file():
        if (directory / "modules.json").is_file():
            raise InputError(
                f"{directory}: no config.json beside modules.json; save the model again with a "
                "current Sentence-Transformers, which writes it there"
            )
        raise InputError(f"{directory}: no config.json; give a Hugging Face model directory")
    raw = read_json(path)
    family = FAMILIES.get(str(raw.get("model_type")))
    if family is None:
        raise UnsupportedError(
            f"{path}: model_type is {raw.get('model_type')!r:.60}; search needs a teacher of "
            f"{', '.join(FAMILIES)}"
        )
    if raw.get("is_decoder") or raw.get("add_cross_attention"):
        raise UnsupportedError(f"{path}: a decoder; search needs an encoder")
    with _without_logs():
        config, kind = read_config(directory, inventory, limits=LIMITS)
    inventory.require()
    try:
        family.arch(config)
        refused = family.refused(config, kind.__name__)
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {first_line(error)}; correct the file") from None
    if refused:
        raise UnsupportedError(f"{path}: {refused}")
    return config


def arch_of(config: PreTrainedConfig) -> Arch:
    """The architecture in a configuration of one of the families."""
    return family_of(config).arch(config)


def takes(config: PreTrainedConfig) -> Takes:
    """What models of a configuration take."""
    family = family_of(config)
    return Takes(family.tokens(config), family.types(config))


def student_config(config: PreTrainedConfig, arch: Arch) -> PreTrainedConfig:
    """A copy of a teacher's configuration with the architecture `arch`: one of the teacher's family
    if that has such models, and else one of blocks.py."""
    family = family_of(config)
    if arch == family.arch(config):
        student = copy.deepcopy(config)
    elif family.expresses(config, arch):
        student = family.resized(config, arch)
    else:
        student = blocks.config_of(family.block_settings(config), arch)
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
    config, head = load_config(directory, inventory), head or head_for(labels)
    if isinstance(head, Vectors):
        with _without_logs():
            return _settled(cast(PreTrainedModel, load_embedder(directory, inventory)))
    family, keep = family_of(config), _head_order(directory, config, labels, head)
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
        raise InputError(f"{directory}: weights cannot be read ({first_line(error)})") from None
    _check_loaded(directory, info, family, head)
    _note_pooler(directory, info, inventory)
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
    return _settled(model).eval()


def _settled(model: PreTrainedModel) -> PreTrainedModel:
    """The same, whatever stands behind a text: where words see their neighbours, padding is nothing
    to see, as what is behind the end of an input."""
    tables = parts_of(model).embeddings
    if tables.trigram and tables.words.padding_idx is not None:
        with torch.no_grad():
            tables.words.weight[tables.words.padding_idx] = 0
    return model


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
    """The modules of a model with one of the heads, by their role."""
    return family_of(model.config).parts(model)


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """A classifier's encoder, without the head."""
    return model.base_model


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
    rows, last = None, f"{family_of(config).path_of(head)}.weight"
    for file in weight_files(directory):
        try:
            with safe_open(file, framework="pt") as tensors:
                if last in tensors.keys():  # noqa: SIM118 - not a mapping
                    rows = tensors.get_slice(last).get_shape()[0]
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{file}: not a whole safetensors file ({first_line(error)}); download it again"
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


def _check_loaded(
    directory: Path, info: Mapping[str, Any], family: Family, head: Head
) -> None:
    """InputError if weights of the encoder are missing; pooler and head may be."""
    missing = sorted(k for k in info["missing_keys"] if not k.startswith(family.untrained))
    if missing:
        raise InputError(
            f"{directory}: {len(missing)} weights are missing, such as {missing[0]}; "
            "give a complete checkpoint"
        )
    for key, found, expected in sorted(info["mismatched_keys"]):
        if not key.startswith(f"{family.path_of(head)}."):
            raise InputError(
                f"{directory}: {key} has shape {list(found)}, config.json says {list(expected)}; "
                "one of them belongs to another model"
            )


def _note_pooler(directory: Path, info: dict[str, Any], inventory: Inventory) -> None:
    """Of a checkpoint with a pooler, the classifiers of some families have no place for it."""
    poolers = {name for name in info["unexpected_keys"] if is_pooler(name)}
    for name in sorted(poolers):
        inventory.note(directory / WEIGHTS, name, INERT, "classifiers have a layer of their own")
    info["unexpected_keys"] = set(info["unexpected_keys"]) - poolers


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
