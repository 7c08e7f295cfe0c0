"""LoadedModel: a Hugging Face directory as a torch module in eval mode, with its configuration.

Weights are read from safetensors only."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canao.artifact.reading import SETTINGS_BYTES, read_json
from canao.defaults import LIMITS, Limits
from canao.errors import InputError
from canao.model.arch import BLOCK_FAMILY
from canao.model.directory.checkpoint import weight_files
from canao.model.directory.config import FILE, one_line, read_config
from canao.model.directory.limits import check_module
from canao.model.directory.onnx_files import onnx_hint
from canao.model.inventory.inventory import Inventory
from canao.model.inventory.table import INERT, USED
from canao.model.sentence.cross_encoder import CrossEncoder, check_scorer, read_cross_encoder
from canao.model.sentence.sentence import (
    Sentence,
    module_folders,
    read_sentence,
    transformer_directory,
)
from canao.model.sentence.setfit import note_setfit

WEIGHTS = "model.safetensors"
_NOT_BY_TRANSFORMERS = ("was not trained as that class; save it as a class that has a place for "
                        "all of it, or give --ignore {name}")  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A torch module (float32, eval mode), its configuration, and the directory it came from.

    `sentence` is how token vectors are pooled into one, for a directory of Sentence-Transformers.
    `scorer` is what a CrossEncoder of Sentence-Transformers adds to a classifier.
    """

    module: Any
    config: Any
    path: Path | None
    sentence: Sentence | None = None
    scorer: CrossEncoder | None = None

    @property
    def kind(self) -> str:
        """The name of the model's class."""
        return type(self.module).__name__

    @property
    def max_length(self) -> int:
        """The most tokens that the model takes; 512 if its configuration sets no limit."""
        stated = int(getattr(self.config, "max_position_embeddings", 0) or 0)
        return stated if stated > 0 else 512


def parts_of(module: Any, config: Any) -> tuple[tuple[str, str], ...]:
    """Paths in a module of layers whose products have a precision of their own, and that."""
    if getattr(config, "model_type", None) != BLOCK_FAMILY:
        return ()
    from canao.model.blocks import precisions

    return precisions(module)


def load_directory(
    path: str | Path, inventory: Inventory | None = None, limits: Limits = LIMITS
) -> LoadedModel:
    """The model in a Hugging Face directory.

    InputError names what is missing, damaged or larger than `limits` allow; UnsupportedError what
    the inventory refuses.
    """
    import transformers

    path = Path(path)
    inventory = inventory or Inventory(path)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = survey(path, inventory)
    sentence, scorer = read_sentence(path, inventory), read_cross_encoder(path, inventory)
    for part in module_folders(path):
        inventory.sweep(part)
    check_directory(folder)
    # Sentence-Transformers ignores the head, whichever one was trained with these weights.
    bare = sentence is not None
    config, kind = read_config(folder, inventory, bare=bare, limits=limits)
    inventory.require()
    check_scorer(folder, scorer, kind.__name__)
    check_module(folder, kind, config, limits)
    module = _loaded(folder, config, kind, inventory)
    if not bare and not config.architectures:
        _require_head_named(folder, inventory)
    inventory.require()
    return LoadedModel(module, config, folder, sentence, scorer)


def survey(path: Path, inventory: Inventory) -> Path:
    """The directory of the Transformers model in a model directory: itself, or one that
    modules.json names. UnsupportedError for files, in either, that CANAO does not understand."""
    check_folder(path)
    note_setfit(path, inventory)
    inventory.sweep(path)
    inventory.require()
    folder = transformer_directory(path)
    if folder != path:
        check_folder(folder)
        inventory.sweep(folder)
        inventory.require()
    return folder


def _loaded(path: Path, config: Any, kind: Any, inventory: Inventory) -> Any:
    """The module with its weights, each of which is looked at: none may be missing, left over, of
    another shape, or not a number."""
    for file in (*_checked_files(path), *path.glob("model.safetensors.index.json")):
        inventory.file(file, USED, "weights")
    module, loading = _from_pretrained(path, config, kind)
    missing = set(loading["missing_keys"])
    pooler = {name for name in missing if is_pooler(name)}
    if pooler and pooler == missing and "add_pooling_layer" in inspect.signature(kind).parameters:
        # Checkpoints often leave out the pooler of a bare encoder. Then nobody can use its output,
        # which would be made of random numbers.
        module, loading = _from_pretrained(path, config, kind, add_pooling_layer=False)
        note = "the checkpoint has none, so the model has no pooler_output"
        inventory.note(path / WEIGHTS, "pooler", INERT, note)
    _check_loaded(path, loading)
    check_left_over(path, config, kind, loading, inventory)
    # The parameters of the activation xielu stay bfloat16 whatever dtype is asked for.
    module = module.float().eval()
    check_finite(path, module)
    return module


def _from_pretrained(path: Path, config: Any, kind: Any, **options: Any) -> tuple[Any, Any]:
    import safetensors
    import transformers

    try:
        return kind.from_pretrained(
            path, config=config, local_files_only=True, trust_remote_code=False,
            use_safetensors=True, dtype="float32",
            output_loading_info=True, ignore_mismatched_sizes=True,
            # Its file is read by generation.py, which names what is wrong with it.
            generation_config=transformers.GenerationConfig(),
            # Named here, because config.json could name one that has to be downloaded.
            attn_implementation="sdpa" if getattr(kind, "_supports_sdpa", False) else "eager",
            **options,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError,
            ZeroDivisionError, OverflowError, safetensors.SafetensorError) as error:  # fmt: skip
        raise InputError(
            f"{path}: no model can be made of {FILE} and the weights ({one_line(error)}); give the "
            "configuration that the weights were saved with"
        ) from None


def is_pooler(name: str) -> bool:
    """Whether a weight is of the pooler of an encoder."""
    return name.startswith("pooler.") or ".pooler." in name


def _check_loaded(path: Path, loading: dict[str, Any]) -> None:
    wrong = sorted(loading["mismatched_keys"])
    if wrong:
        name, stored, wanted = wrong[0]
        raise InputError(
            f"{path}: weight {name} has shape {tuple(stored)} where config.json calls for "
            f"{tuple(wanted)}; give the configuration that the weights were saved with"
        )
    missing = sorted(loading["missing_keys"])
    if missing:
        raise InputError(
            f"{path}: the checkpoint lacks {len(missing)} weights, first {missing[0]}; "
            "fine-tune and save the model before compiling it"
        )


def check_left_over(
    path: Path, config: Any, kind: Any, loading: dict[str, Any], inventory: Inventory
) -> None:
    """Weights that the model has no place for are refused, unless they are of another head that the
    family has, which does not touch this model's result."""
    left = set(loading["unexpected_keys"])
    if not left:
        return
    for other in _other_heads(config, kind):
        theirs = left & _weight_names(other, config)
        for name in theirs:
            inventory.note(path / WEIGHTS, name, INERT, f"belongs to the head of {other.__name__}")
        left -= theirs
        if not left:
            return
    for name in sorted(left):
        inventory.refuse(
            path / WEIGHTS, name, f"{kind.__name__} has no place for weight {name}; the model "
            + _NOT_BY_TRANSFORMERS.format(name=f"{inventory.relative(path / WEIGHTS)}:{name}")
        )  # fmt: skip


def _require_head_named(path: Path, inventory: Inventory) -> None:
    """InputError for the weights of a head where config.json names no class that has one."""
    heads = [f for f in inventory.left_out if f.file.endswith(WEIGHTS) and "head of" in f.note]
    if heads:
        raise InputError(
            f"{path}/{FILE}: names no architecture, and the checkpoint has a head "
            f"({heads[0].entry} {heads[0].note}); name the class in 'architectures'"
        )


def _other_heads(config: Any, kind: Any) -> Iterator[Any]:
    """The other classes of Transformers that take this configuration."""
    import sys

    import transformers

    module = sys.modules[kind.__module__]
    for name in sorted(vars(module)):
        found = getattr(module, name)
        if (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
                and found is not kind and found.__module__ == kind.__module__
                and getattr(found, "config_class", None) is type(config)
                and not name.endswith("PreTrainedModel")):  # fmt: skip
            yield found


def _weight_names(kind: Any, config: Any) -> set[str]:
    """The names of the weights that a class stores; none for one that this configuration does not
    suit."""
    import torch

    try:
        with torch.device("meta"):
            return set(kind(config).state_dict())
    except (ValueError, TypeError, AttributeError, RuntimeError, NotImplementedError, KeyError,
            ImportError):  # fmt: skip
        return set()


def check_finite(path: Path, module: Any) -> None:
    """InputError for weights that are not numbers: whatever they touch would be none either."""
    import torch

    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        wrong = int((~torch.isfinite(tensor)).sum())
        if wrong:
            kind = "NaN" if bool(torch.isnan(tensor).any()) else "infinite"
            raise InputError(
                f"{path}: weight {name} holds {kind} values ({wrong} of {tensor.numel()}); the "
                "checkpoint is of no use, take one from before training went wrong"
            )


def check_folder(path: Path) -> None:
    """InputError unless `path` is a directory."""
    if not path.exists():
        raise InputError(f"{path}: no such directory; give a Hugging Face model directory")
    if not path.is_dir():
        raise InputError(
            f"{path}: not a directory; give a Hugging Face model directory or an .onnx file"
        )


def check_directory(path: Path) -> None:
    """InputError unless `path` holds a configuration and weights as safetensors."""
    check_folder(path)
    if not (path / FILE).is_file():
        hint = onnx_hint(path) or "; give a Hugging Face model directory"
        raise InputError(f"{path}: no config.json{hint}")
    read_json(path / FILE, limit=SETTINGS_BYTES)
    if onnx_hint(path) and not any(path.glob("*.safetensors")):
        raise InputError(f"{path}: no .safetensors file{onnx_hint(path)}")
    weight_files(path)


def _checked_files(path: Path) -> list[Path]:
    """The weight files; InputError for one that is missing or damaged."""
    import safetensors

    files = weight_files(path)
    for file in files:
        try:
            with safetensors.safe_open(file, "numpy"):
                pass
        except (OSError, safetensors.SafetensorError) as error:
            raise InputError(f"{file}: damaged ({one_line(error)}); download it again") from None
    return list(files)
