"""A tokenizer's files judged, entry by entry, before a library sees them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from canao.artifact.reading import MAX_BYTES, fits, read_json
from canao.errors import InputError
from canao.model.inventory.inventory import Inventory
from canao.model.inventory.table import INERT, USED, Entry, used
from canao.model.inventory.tables.tokenizer import (
    ADDED_TOKEN,
    ADDED_TOKENS_FILE,
    SPECIAL_TOKENS_MAP,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    Id,
)
from canao.model.tokenizing.attempt import try_form
from canao.model.tokenizing.classes import classes_of, parameters
from canao.model.tokenizing.files import (
    ADDED,
    AGAIN,
    CONFIG,
    FORM,
    SPECIAL,
    there,
    vocabulary_files,
)
from canao.model.tokenizing.form import Form, check_form, patterns, unread, without_vocabulary

# Entries that hold one token, or several.
_ONE, _SEVERAL = "_token", ("additional_special_tokens", "extra_special_tokens",
                            "model_specific_special_tokens")  # fmt: skip


def judged(path: Path, inventory: Inventory) -> bool:
    """Whether nothing of a tokenizer's files is refused; InputError if one cannot be read."""
    before = len(inventory.refusals)
    for file in vocabulary_files(path):
        if not file.is_file() or file.stat().st_size > MAX_BYTES:
            raise InputError(
                f"{file}: is not a regular file of at most {MAX_BYTES} bytes; {AGAIN}"
            )
        inventory.file(file, USED, "the vocabulary")
    config = _settings(path, inventory)
    decoder = config.get("added_tokens_decoder")
    for index, token in (decoder or {}).items():
        place = f"added_tokens_decoder.{index}"
        if fits(int(index) if index.isdecimal() else index, Id):
            inventory.refuse(path / CONFIG, place, f"'{place}' is no id; correct it")
        _judge_token(path / CONFIG, place, token, inventory)
    _judge_older(path, inventory, unread=decoder is not None)
    if (path / FORM).is_file():
        _judge_form(path / FORM, inventory)
    return len(inventory.refusals) == before


def _settings(path: Path, inventory: Inventory) -> dict[str, Any]:
    """The used entries of tokenizer_config.json."""
    if not there(path / CONFIG):
        return {}
    values = read_json(path / CONFIG, remedy=AGAIN)
    unlisted = partial(_setting_of_a_class, path, values)
    found = inventory.settings(path / CONFIG, TOKENIZER_CONFIG, unlisted, values=values)
    _judge_tokens(path / CONFIG, found, inventory)
    return found


def _setting_of_a_class(
    path: Path, values: Mapping[str, Any], name: str, _value: Any
) -> Entry | None:
    """An entry that a class reads which may be the tokenizer's."""
    for kind in classes_of(path, values):
        if name in parameters(kind):
            return used(f"a setting of {kind.__name__}")
    return None


def _judge_tokens(file: Path, values: Mapping[str, Any], inventory: Inventory) -> None:
    """Judge the tokens that settings name, each of which may be an object of its own."""
    for name, value in values.items():
        if name in _SEVERAL and isinstance(value, (list, dict)):
            several = value.items() if isinstance(value, dict) else enumerate(value)
            for key, token in several:
                _judge_token(file, f"{name}.{key}", token, inventory)
        elif name.endswith(_ONE):
            _judge_token(file, name, value, inventory)


def _judge_token(file: Path, place: str, token: Any, inventory: Inventory) -> None:
    """Note what is refused of a token. There may be thousands, so nothing else is noted of them."""
    if not isinstance(token, dict):
        if token == "":
            why = f"'{place}' is an empty text; name a token, or take it out"
            inventory.refuse(file, place, why)
        return
    apart = Inventory(inventory.root)
    apart.settings(file, ADDED_TOKEN, values=token, inside=place)
    for refusal in apart.refusals:
        inventory.refuse(file, refusal.entry, refusal.note)
    if "content" not in token:
        inventory.refuse(file, place, f"'{place}' has no content; {AGAIN}")


def _judge_older(path: Path, inventory: Inventory, *, unread: bool) -> None:
    """Judge the files that newer versions of Transformers write into tokenizer_config.json."""
    for name in (SPECIAL, ADDED):
        file = path / name
        if not there(file):
            continue
        values = read_json(file, remedy=AGAIN)
        if unread:
            why = f"{CONFIG} has added_tokens_decoder, which is read instead"
            inventory.file(file, INERT, why)
        elif name == SPECIAL:
            found = inventory.settings(file, SPECIAL_TOKENS_MAP, values=values)
            _judge_tokens(file, found, inventory)
        else:
            inventory.file(file, USED, ADDED_TOKENS_FILE.does)
            for token, index in values.items():
                wrong = fits(index, ADDED_TOKENS_FILE.kind)
                if wrong is not None:
                    inventory.refuse(file, token, f"'{token}' {wrong}; {AGAIN}")


def _judge_form(file: Path, inventory: Inventory) -> None:
    """Judge a tokenizer.json: by what it says, and by how the library understands it."""
    form = read_json(file, remedy=AGAIN)
    check_form(str(file), form)
    inventory.settings(file, TOKENIZER_JSON, values=form)
    for i, token in enumerate(form.get("added_tokens") or ()):
        _judge_token(file, f"added_tokens.{i}", token, inventory)
    if any(refusal.file == inventory.relative(file) for refusal in inventory.refusals):
        return
    understood = tried(file, form)
    for entry in unread(without_vocabulary(form), understood):
        if entry.partition(".")[0] not in ("added_tokens", "version"):
            inventory.refuse(file, entry, f"'{entry}' is not known to the tokenizers library; "
                             "take it out if ids are the same without it")  # fmt: skip


def tried(file: Path, form: Form) -> Form:
    """How the library understands a form without its vocabulary; InputError if it should not."""
    check_form(str(file), form)
    return try_form(str(file), without_vocabulary(form), patterns(form))
