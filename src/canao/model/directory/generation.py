"""How a decoder continues a text unless it is told otherwise: generation_config.json.

As in Transformers, a directory without that file has these settings in its config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from canao.artifact.reading import read_json
from canao.model.directory.loaded_model import LoadedModel
from canao.model.inventory.inventory import Inventory
from canao.model.inventory.table import INERT, Table
from canao.model.inventory.tables.config import CONFIG
from canao.model.inventory.tables.generation import GENERATION

FILE = "generation_config.json"
_NO_TEXT = "how texts are continued; this model continues none"
# In a configuration of several models, that of the one that writes.
_WRITERS = ("decoder", "generator", "text_config")
# Entries that name tokens, each of which must be one of the model's.
_TOKENS = ("bad_words_ids", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id")


def describe_generation(
    loaded: LoadedModel, task: str, inventory: Inventory | None = None
) -> dict[str, Any]:
    """The manifest's entries about the continuation of texts.

    generation    the settings that the model's files make, by their names in Transformers; empty
                  for a model that continues no texts
    stop_tokens   the tokens that end a text
    """
    own = inventory is None
    inventory = inventory or Inventory(_folder(loaded) or Path(loaded.kind))
    folder = _folder(loaded)
    # A module from Python may have any name, and say by its settings that it writes.
    if task != "text-generation" and not (task == "none" and folder is None):
        if folder is not None and (folder / FILE).is_file():
            inventory.file(folder / FILE, INERT, _NO_TEXT)
        return {"generation": {}, "stop_tokens": stop_tokens(loaded.config)}
    path, settings = _settings(loaded, inventory)
    for entry, why in _contradictions(settings, getattr(loaded.config, "vocab_size", None)):
        inventory.refuse(path, entry, why)
    if own:
        inventory.require()
    ends = settings.pop("eos_token_id", None)
    return {"generation": settings, "stop_tokens": _ends(ends)}


def stop_tokens(config: Any) -> list[int]:
    """The tokens that end a text, if the configuration names any."""
    return _ends(getattr(config, "eos_token_id", None))


def _folder(loaded: LoadedModel) -> Path | None:
    """Where the model's settings lie; beside an .onnx file also where there is no tokenizer."""
    return getattr(loaded, "folder", None) or loaded.path


def _ends(named: Any) -> list[int]:
    """The tokens that end a text. No token has a negative number, by which some files say that
    none ends it."""
    return [token for token in _listed(named) if token >= 0]


def _listed(ends: Any) -> list[int]:
    listed = ends if isinstance(ends, (list, tuple)) else [ends]
    return [int(e) for e in listed if e is not None]


def _settings(loaded: LoadedModel, inventory: Inventory) -> tuple[Path, dict[str, Any]]:
    """The settings, without those that are null, and the file that they come from."""
    folder = _folder(loaded)
    if folder is None:
        # Of a module from Python, its own.
        path = inventory.root / FILE
        held = getattr(loaded.module, "generation_config", None)
        values = held.to_diff_dict() if held is not None else _of_config(
            getattr(loaded.config, "__dict__", {})
        )
        found = inventory.settings(path, GENERATION, values=_plain(values))
    elif (folder / FILE).is_file():
        path = folder / FILE
        found = inventory.settings(path, GENERATION)
    else:
        path = folder / "config.json"
        held = read_json(path) if path.is_file() else {}
        found = inventory.settings(path, GENERATION, values=_of_config(held))
    return path, {name: value for name, value in found.items() if value is not None}


def _of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says of generation. What else it holds has a table of its own."""
    inner: Mapping[str, Any] = next(
        (config[n] for n in _WRITERS if isinstance(config.get(n), dict)), {}
    )
    merged = {**inner, **{k: v for k, v in config.items() if v is not None}}
    names = Table({k: e for k, e in GENERATION.entries.items() if k not in CONFIG.entries})
    return {k: v for k, v in merged.items() if k == "eos_token_id" or names.find(k)}


def _plain(value: Any) -> Any:
    """A value of Python as JSON has it: tuples as lists."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _contradictions(
    settings: Mapping[str, Any], vocabulary: int | None
) -> list[tuple[str, str]]:
    """Entries with which Transformers could not write a text, and why."""
    found = []
    if settings.get("do_sample") and settings.get("temperature") == 0:
        found.append(("temperature", "'temperature' is 0 and 'do_sample' true; at temperature 0 "
                                     "nothing can be drawn; set do_sample to false"))  # fmt: skip
    decay = "exponential_decay_length_penalty"
    if decay in settings and not _ends(settings.get("eos_token_id")):
        found.append((decay, f"'{decay}' is set and no end token; name one in eos_token_id"))
    for name in ("repetition_penalty", "encoder_repetition_penalty"):
        factor = settings.get(name)
        if isinstance(factor, int) and factor != 1:
            found.append((name, f"'{name}' is {factor}, which Transformers does not take for a "
                                f"factor; write {factor}.0"))  # fmt: skip
    suppressed = set(settings.get("suppress_tokens", ()))
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        if name in settings and suppressed.issuperset(_listed(settings[name])):
            found.append((name, f"'{name}' forces a token that 'suppress_tokens' rules out; take "
                                "it out of one of them"))  # fmt: skip
    for name in _TOKENS if vocabulary is not None else ():
        wrong = [t for t in _numbers(name, settings.get(name)) if t >= int(vocabulary or 0)]
        if wrong:
            found.append((name, f"'{name}' names token {wrong[0]}, and the model has {vocabulary}; "
                                "correct it"))  # fmt: skip
    return found


def _numbers(name: str, value: Any) -> list[int]:
    """The tokens in the value of one of _TOKENS."""
    if value is None:
        return []
    if name == "bad_words_ids":
        return [t for sequence in value for t in sequence]
    if name == "sequence_bias":
        return [t for sequence, _ in value for t in sequence]
    return _listed(value)
