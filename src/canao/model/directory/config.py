"""config.json of a model directory: read through the inventory, and only then by Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from canao.artifact.reading import SETTINGS_BYTES, first_repeated, fits, read_json, shown
from canao.defaults import Limits
from canao.errors import InputError, UnsupportedError
from canao.model.arch import BLOCK_FAMILY
from canao.model.directory.limits import check_sizes
from canao.model.encoder import encoder_class, refuse_decoder
from canao.model.inventory.family import family_entry
from canao.model.inventory.inventory import Inventory
from canao.model.inventory.table import Entry
from canao.model.inventory.tables.config import CONFIG, GENERATION_ENTRY, UNREAD

FILE = "config.json"
_REMEDY = "give the config.json that was saved with the weights"


def read_config(
    folder: Path, inventory: Inventory, *, bare: bool = False, limits: Limits | None = None
) -> tuple[Any, Any]:
    """The configuration in a model directory, and the class of the model that it describes.

    With `limits` its sizes are compared with the weights first, before anything is made of them.
    `bare` asks for the family's encoder without a head, whatever class config.json names. Entries
    that are refused are noted in the inventory and raised by its `require`; InputError or
    UnsupportedError for a file from which no configuration can be made at all.
    """
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    path = folder / FILE
    raw = read_json(path, limit=SETTINGS_BYTES)
    family = raw.get("model_type")
    if not isinstance(family, str):
        raise InputError(f"{path}: names no model_type; {_REMEDY}")
    # Whatever hides another reason for refusing comes first.
    inventory.settings(path, CONFIG, _left_to_family, values=raw)
    inventory.require()
    if family == BLOCK_FAMILY:
        import canao.model.blocks  # noqa: F401 - Transformers knows the family from then on
    if family not in transformers.CONFIG_MAPPING:
        raise UnsupportedError(
            f"{path}: model_type '{family}' is none that Transformers has; CANAO runs no code "
            "of a model directory"
        )
    if limits is not None:
        check_sizes(folder, raw, limits)
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError,
            StrictDataclassError) as error:  # fmt: skip
        raise InputError(f"{path}: {one_line(error)}; {_REMEDY}") from None
    config_class, kind = type(config), _model_class(path, config, bare=bare)
    generation = set(transformers.GenerationConfig().to_dict())

    def unlisted(name: str, value: Any) -> Entry | None:
        found = family_entry(config_class, kind, name) or UNREAD.find(name)
        return GENERATION_ENTRY if found is None and name in generation else found

    inventory.settings(path, CONFIG, unlisted, values=raw)
    _check_labels(path, raw, inventory)
    return _plain(config), kind


def _left_to_family(name: str, value: Any) -> Entry | None:
    """Nothing is refused before the family is known."""
    return GENERATION_ENTRY


def _plain(config: Any) -> Any:
    """The configuration without the settings that only say how Python code computes or returns."""
    plain = {"use_cache": True, "return_dict": True, "output_attentions": False,
             "output_hidden_states": False, "chunk_size_feed_forward": 0}  # fmt: skip
    for name, value in plain.items():
        if hasattr(config, name):
            setattr(config, name, value)
    return config


def _model_class(path: Path, config: Any, *, bare: bool) -> Any:
    """The class that config.json names; if it names none, or for a bare model, the family's."""
    import transformers

    named = getattr(config, "architectures", None) or []
    if bare or not named:
        return encoder_class(config)
    if len(named) > 1:
        raise InputError(
            f"{path}: architectures names {', '.join(map(str, named))}; keep the one whose head is "
            "to be compiled"
        )
    refuse_decoder(path.parent, config, named[0])
    kind = _named_class(named[0], config)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        ours = getattr(config, "model_type", None) == BLOCK_FAMILY
        known = f"a class of the family {BLOCK_FAMILY}" if ours else "one that Transformers has"
        raise UnsupportedError(
            f"{path}: architecture '{named[0]}' is not {known}; CANAO runs no code of a model "
            "directory"
        )
    family = getattr(kind, "config_class", None)
    if family is not None and not isinstance(config, family):
        raise InputError(
            f"{path}: architecture '{named[0]}' belongs to model_type '{family.model_type}', not "
            f"to '{config.model_type}'; {_REMEDY}"
        )
    return kind


def _named_class(name: str, config: Any) -> Any:
    """The class of Transformers, or for its own family of CANAO, that has a name; None if there is
    none."""
    import transformers

    if getattr(config, "model_type", None) == BLOCK_FAMILY:
        from canao.model.blocks import CLASSES

        return CLASSES.get(name)
    return getattr(transformers, name, None) if name.isidentifier() else None


def _check_labels(path: Path, raw: Mapping[str, Any], inventory: Inventory) -> None:
    """Refuse labels that can be read in more than one way. All of them are kept in `id2label`."""
    names, count = raw.get("id2label"), raw.get("num_labels")
    if fits(names, dict[str, str] | None) or not names:
        if names == {}:
            inventory.refuse(path, "id2label", "'id2label' is empty; name the labels in it")
        elif names is None and raw.get("label2id"):
            inventory.refuse(
                path, "label2id", "'label2id' stands without id2label; add id2label, the same the "
                "other way round"
            )
        return
    order = [str(i) for i in range(len(names))]
    if sorted(names) != sorted(order):
        numbers = set(order)
        odd = next(k for k in names if k not in numbers)
        inventory.refuse(
            path, "id2label", f"'id2label' has {len(names)} labels and a key {shown(odd)}; number "
            f"them 0 to {len(names) - 1}, in the order of the head's outputs"
        )  # fmt: skip
        return
    labels = [names[i] for i in order]
    twice = first_repeated(labels)
    if twice is not None:
        inventory.refuse(
            path, "id2label", f"'id2label' gives the name {shown(twice)} to two labels; give each "
            "its own"
        )
    if isinstance(count, int) and count != len(labels):
        inventory.refuse(
            path, "num_labels", f"'num_labels' is {count} and id2label has {len(labels)} names; "
            "correct the one that does not fit the head"
        )
    check_inverse(path, labels, raw.get("label2id"), inventory)


def check_inverse(path: Path, labels: list[str], given: Any, inventory: Inventory) -> None:
    """Refuse a label2id that contradicts id2label. One of generic names was left as it was made."""
    if not given or fits(given, dict[str, int | str]):
        return
    generic = all(name == f"LABEL_{number}" for name, number in given.items())
    wrong = [n for n, i in given.items()
             if not str(i).isdecimal() or int(i) >= len(labels) or labels[int(i)] != n]  # fmt: skip
    if wrong and not generic:
        inventory.refuse(
            path, "label2id", f"'label2id' says {shown({wrong[0]: given[wrong[0]]})} and id2label "
            "does not; make them agree"
        )


def one_line(error: BaseException) -> str:
    """What a library says of a failure, on one line."""
    if "trust_remote_code" in str(error):
        return ("it names code of its own (auto_map), and CANAO runs no code of a model directory; "
                "save the model as a class of Transformers")  # fmt: skip
    if isinstance(error, KeyError):
        return f"unknown name {error}"
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
