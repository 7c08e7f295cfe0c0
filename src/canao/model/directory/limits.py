"""What a model directory asks for, against what its weights hold and what may be allocated.

Transformers builds whatever config.json calls for: labels without number, layers for hours. So the
sizes are compared with the header of the weights first, which says the shape of each, and then with
the module built without memory (on torch's device "meta"). No weight is allocated before.
"""

from __future__ import annotations

import math
import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from canao.artifact.reading import shown
from canao.defaults import LIMITS, Limits
from canao.errors import InputError
from canao.model.directory.checkpoint import weight_files

Shapes = Mapping[str, tuple[int, ...]]

# Sizes as most configurations call them; a family's own names for them are in its attribute_map.
# Each is at least 1, and the weights have a dimension of it.
_SIZES = ("hidden_size", "vocab_size", "intermediate_size")
_COUNTS = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "num_hidden_groups",
           "inner_group_num", "head_dim", "embedding_size")  # fmt: skip
_LENGTH = "max_position_embeddings"
# Entries of a family's own that are sizes, too: whatever they are, they are not negative.
_SIZE_LIKE = re.compile(
    r"(.+_)?(size|sizes|dim|dims|width|layers|heads|groups|labels|experts|embeddings)"
    r"|n_(embd|inner|layer|head|ctx|positions|vocab)|d_(model|ff|kv|inner|embed|head)"
)
# Of these, -1 means something.
_SIGNED = ("max_relative_positions", "position_buckets")
# A class has names for its labels even where no weight belongs to them; more than these are none.
_MOST_LABELS = 1 << 16
# A layer has at least as many operators, and a weight in a header at least one of as many bytes.
_LAYER_NODES, _ENTRY_BYTES = 8, 256
# What may be missing in a file, such as a pooler, and what may be in it twice.
_SLACK_BYTES = 256_000_000
_FLOAT = 4
_NUMBERED = re.compile(r"(?:^|\.)(\d{1,12})\.")
_REMEDY = "give the configuration that the weights were saved with"


def check_sizes(path: Path, settings: Mapping[str, Any], limits: Limits = LIMITS) -> None:
    """InputError unless the sizes in config.json can be those of the weights beside it.

    `settings` is what config.json holds, which need not fit any type. Call it before Transformers
    reads the file: it makes a name for each of `num_labels` labels then.
    """
    file = path / "config.json"
    shapes = stored_shapes(path, limits)
    largest = max((d for shape in shapes.values() for d in shape), default=0)
    ours, shares = _family(settings)
    for name, value in settings.items():
        if name in ours and ours[name] != _LENGTH and value is not None:
            _check_count(file, name, value)
        elif _SIZE_LIKE.fullmatch(name) and name not in _SIGNED:
            _check_not_negative(file, name, value)
    for name, standard in ours.items():
        value = settings.get(name)
        if standard in _SIZES and isinstance(value, int) and value > largest:
            raise InputError(
                f"{file}: '{name}' is {value}, and no weight has more than {largest} rows or "
                f"columns; {_REMEDY}"
            )
    _check_layers(file, settings, ours, shapes, limits, shares)
    _check_labels(file, settings, largest)


def check_module(path: Path, kind: Any, config: Any, limits: Limits = LIMITS) -> None:
    """InputError unless the class `kind` of Transformers can be built from a configuration, with no
    more weights than the files hold and than may be allocated."""
    import torch

    file = path / "config.json"
    try:
        with torch.device("meta"):
            module = kind(config)
    except Exception as error:  # noqa: BLE001  a class may raise anything for odd sizes
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{file}: {kind.__name__} cannot be built from it ({what}); correct it"
        ) from None
    weights = sum(p.numel() for p in module.parameters()) * _FLOAT
    tables = sum(b.numel() * b.element_size() for b in module.buffers())
    held = sum(math.prod(shape) for shape in stored_shapes(path, limits).values()) * _FLOAT
    if weights > 2 * held + _SLACK_BYTES:
        raise InputError(
            f"{file}: it calls for weights of {_gb(weights)} and the files hold {_gb(held)}; "
            f"{_REMEDY}"
        )
    for what, size in (("weights", weights), ("tables", tables)):
        if size > limits.memory:
            raise _too_large(f"{file}: it calls for {what} of {_gb(size)}", size, limits)


def stored_shapes(path: Path, limits: Limits = LIMITS) -> dict[str, tuple[int, ...]]:
    """The shape of each weight in the safetensors files of a directory, by name.

    Only headers are read. InputError for a file that is damaged or holds more than may be loaded.
    """
    import safetensors

    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(path):
        header = _header_bytes(file)
        if header > limits.nodes * _ENTRY_BYTES and header < file.stat().st_size:
            raise _too_many(f"{file}: its header names more weights", limits)
        try:
            with safetensors.safe_open(file, "numpy") as held:
                for name in held.keys():  # noqa: SIM118  it is no mapping
                    shapes[name] = tuple(map(int, held.get_slice(name).get_shape()))
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            what = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"{file}: damaged ({what}); download it again") from None
        unreadable = next((n for n in shapes if not n.isprintable()), None)
        if unreadable is not None:
            raise InputError(
                f"{file}: the name of a weight, {shown(unreadable)}, is not plain text; "
                "save the model again"
            )
    if len(shapes) > limits.nodes:
        raise _too_many(f"{path}: it has {len(shapes)} weights", limits)
    size = sum(math.prod(shape) for shape in shapes.values()) * _FLOAT
    if size > limits.memory:
        raise _too_large(f"{path}: its weights take {_gb(size)} as float32", size, limits)
    return shapes


def stored_layers(names: Iterable[str]) -> int:
    """How many layers the names of weights number, as in encoder.layer.11.output; 0 if none."""
    most: dict[str, int] = defaultdict(int)
    for name in names:
        found = _NUMBERED.search(name)
        if found is not None:
            before = name[: found.start()]
            most[before] = max(most[before], int(found[1]) + 1)
    return max(most.values(), default=0)


def _header_bytes(file: Path) -> int:
    try:
        with open(file, "rb") as stream:
            start = stream.read(8)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check it") from None
    return int(struct.unpack("<Q", start)[0]) if len(start) == 8 else 0


def _family(settings: Mapping[str, Any]) -> tuple[dict[str, str], bool]:
    """Standard name of each size by the name that the model's family has for it, and whether its
    layers may share their weights."""
    from transformers import CONFIG_MAPPING

    standard = (*_SIZES, *_COUNTS, _LENGTH)
    ours = {name: name for name in standard}
    model_type = settings.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return ours, "num_hidden_groups" in settings
    kind = CONFIG_MAPPING[model_type]
    for name, own in (getattr(kind, "attribute_map", None) or {}).items():
        if name in ours:
            ours[own] = name
    return ours, hasattr(kind, "num_hidden_groups")


def _check_count(file: Path, name: str, value: Any) -> None:
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, int) or isinstance(one, bool) or one < 1:
            raise InputError(f"{file}: '{name}' is {shown(value)}; give a whole number from 1")


def _check_not_negative(file: Path, name: str, value: Any) -> None:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, (int, float)) and one < 0:
            raise InputError(f"{file}: '{name}' is {shown(value)}, which is no size; {_REMEDY}")


def _check_layers(
    file: Path, settings: Mapping[str, Any], ours: Mapping[str, str], shapes: Shapes,
    limits: Limits, shares: bool,
) -> None:  # fmt: skip
    named = [name for name, standard in ours.items() if standard == "num_hidden_layers"]
    held = stored_layers(shapes)
    for name in named:
        count = settings.get(name)
        if not isinstance(count, int):
            continue
        if held and count > held and not shares:
            raise InputError(
                f"{file}: '{name}' is {count}, and the weights are of {held} layers; {_REMEDY}"
            )
        if count * _LAYER_NODES > limits.nodes:
            raise _too_many(f"{file}: '{name}' is {count}, which makes more operators", limits)


def _check_labels(file: Path, settings: Mapping[str, Any], largest: int) -> None:
    for name in ("num_labels", "_num_labels", "id2label", "label2id"):
        value = settings.get(name)
        count = len(value) if isinstance(value, (Mapping, Sequence)) else value
        if not isinstance(count, int) or isinstance(value, str):
            continue
        if count < 0:
            raise InputError(f"{file}: '{name}' is {count}; give a number of labels")
        if count > max(largest, _MOST_LABELS):
            raise InputError(
                f"{file}: '{name}' calls for {count} labels, and no weight has more than {largest} "
                f"rows or columns; {_REMEDY}"
            )


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _too_large(what: str, size: int, limits: Limits) -> InputError:
    needed = math.ceil(size / 1e9)
    return InputError(
        f"{what}, more than {_gb(limits.memory)}; give --max-memory {needed} if that is meant"
    )


def _too_many(what: str, limits: Limits) -> InputError:
    return InputError(
        f"{what} than the limit of {limits.nodes}; give a larger --max-nodes if that is meant"
    )
