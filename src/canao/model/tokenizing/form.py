"""What a tokenizer.json may hold: looked at as JSON, before any library loads it."""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any

from canao.artifact.reading import fits, shown
from canao.errors import InputError
from canao.model.inventory.tables.tokenizer import Id

Form = dict[str, Any]
# How many times as long as a text its normalized form may be: a character of Arabic or Korean has
# up to 18 in Unicode's own table, and a few replacements may follow.
MAX_GROWTH = 1000
# WordPiece looks at all parts of a word; no word of a language is as long.
_MAX_WORD = 10_000
_AGAIN = "save the tokenizer again"
# Names that older versions wrote, which the library still reads and writes under another name.
_OLDER = {"Metaspace": {"add_prefix_space", "str_rep"}}
_VOCABULARY = dict[str, Id] | list[tuple[str, float]]


def check_form(place: str, form: Form) -> None:
    """InputError, which names `place`, for a tokenizer.json that no tokenizer should have."""
    model = form.get("model")
    if not isinstance(model, dict):
        raise InputError(f"{place}: has no model; {_AGAIN}")
    added = form.get("added_tokens") or []
    wrong = fits(model.get("vocab"), _VOCABULARY) or fits(added, list[dict[str, Any]])
    wrong = wrong or fits([token.get("id") for token in added], list[Id])
    if wrong is not None:
        raise InputError(f"{place}: its tokens cannot be read ({wrong}); {_AGAIN}")
    if model.get("dropout"):
        raise InputError(
            f"{place}: model.dropout is {shown(model['dropout'])}, so that ids would be drawn at "
            "random; set it to null"
        )
    longest = model.get("max_input_chars_per_word")
    if isinstance(longest, int) and longest > _MAX_WORD:
        raise InputError(
            f"{place}: model.max_input_chars_per_word is {longest}, which takes hours for a long "
            f"word; set it to {_MAX_WORD} or less"
        )
    for part in ("normalizer", "decoder"):
        grown = _growth(form.get(part))
        if grown > MAX_GROWTH:
            raise InputError(
                f"{place}: its {part} makes texts up to {grown:.3g} times as long; remove "
                "replacements from it"
            )
    _check_templates(place, form.get("post_processor"))


def kind_of(form: Form) -> str:
    """The kind of the model: WordPiece, BPE, Unigram or WordLevel. Older files do not name it."""
    model = form["model"]
    if isinstance(model.get("type"), str):
        return str(model["type"])
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "BPE" if "merges" in model else "WordPiece"


def token_count(form: Form) -> int:
    """How many tokens there are, with those that were added."""
    vocabulary = form["model"].get("vocab", ())
    ids = set(vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary)))
    return len(ids | {token["id"] for token in form.get("added_tokens") or ()})


def without_vocabulary(form: Form) -> Form:
    """The form with next to no vocabulary and no added tokens that need one: it loads at once."""
    model = dict(form["model"])
    if isinstance(model.get("vocab"), list):
        unknown = model.get("unk_id")
        model["vocab"] = [["\u2581", 0.0]]
        model["unk_id"] = None if unknown is None else 0
    else:
        model["vocab"] = {}
    if "merges" in model:
        model["merges"] = []
    return {**form, "model": model}


def patterns(form: Form) -> tuple[str, ...]:
    """The texts that a form replaces or splits at, long repeated: what a trial should hold."""
    found = {
        part["pattern"]["String"] for part in _parts(form)
        if isinstance(part.get("pattern"), dict) and isinstance(part["pattern"].get("String"), str)
    }  # fmt: skip
    return tuple(text * max(1, 256 // len(text)) for text in sorted(found) if text)[:256]


def unread(given: Any, understood: Any, place: str = "") -> Iterator[str]:
    """Entries, as 'a.b', that the library left out when it wrote down what it had read."""
    if isinstance(given, dict) and isinstance(understood, dict):
        older = _OLDER.get(str(given.get("type")), set())
        for name, value in given.items():
            inner = f"{place}.{name}" if place else name
            if name in understood:
                yield from unread(value, understood[name], inner)
            elif name not in older and value is not None:
                yield inner
    elif isinstance(given, list) and isinstance(understood, list):
        for i, (one, other) in enumerate(zip(given, understood, strict=False)):
            yield from unread(one, other, f"{place}.{i}")


def _parts(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every component of a form: its normalizers, pre-tokenizers, decoders, however nested."""
    waiting = [value[k] for k in ("normalizer", "pre_tokenizer", "decoder") if value.get(k)]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += [v for v in one.values() if isinstance(v, list)]
        elif isinstance(one, list):
            waiting += one


def _growth(part: Any) -> float:
    """At most how many times as long a text becomes by the replacements of a component."""
    if not isinstance(part, dict):
        return 1.0
    inside = [one for value in part.values() if isinstance(value, list) for one in value]
    if part.get("type") == "Sequence":
        return math.prod(map(_growth, inside))
    if part.get("type") == "Replace":
        pattern, content = part.get("pattern"), part.get("content")
        found = pattern.get("String") if isinstance(pattern, dict) else None
        # What a pattern matches may be as short as one character.
        length = len(found) if isinstance(found, str) and found else 1
        return max(1.0, len(content) / length) if isinstance(content, str) else 1.0
    if part.get("type") == "Precompiled":
        return _longest_replacement(part.get("precompiled_charsmap"))
    return 1.0


def _longest_replacement(charsmap: Any) -> float:
    """The longest text that SentencePiece's table replaces a character with.

    The table is a number of bytes, a search tree of that many, then texts that end with a zero.
    """
    try:
        data = b64decode(charsmap, validate=True)
    except (TypeError, ValueError):
        return 1.0  # the library says what is wrong with it
    size = int.from_bytes(data[:4], "little")
    return float(max(1, *(len(text) for text in data[4 + size :].split(b"\0"))))


def _check_templates(place: str, part: Any) -> None:
    """InputError for a template that puts a text in twice."""
    if not isinstance(part, dict):
        return
    for inner in part.get("processors") or ():
        _check_templates(place, inner)
    for name in ("single", "pair"):
        pieces = part.get(name)
        if part.get("type") != "TemplateProcessing" or not isinstance(pieces, list):
            continue
        texts = [shown(p["Sequence"].get("id")) for p in pieces
                 if isinstance(p, dict) and isinstance(p.get("Sequence"), dict)]  # fmt: skip
        if len(texts) > len(set(texts)):
            raise InputError(
                f"{place}: post_processor.{name} puts a text in twice; correct the template"
            )
