"""A tokenizer.json with a part of its vocabulary, which still reads every text.

Texts whose tokens are kept are cut as before, whatever else is left out:

* WordPiece takes the longest token that fits, from the left. One that is kept is still the longest.
* Unigram takes the cut of the best score. Without other tokens it is still the best.
* BPE joins the pair of the highest rank, again and again. The pairs that make a kept token are kept
  (those inside it are joined in the same order wherever it stands), so that the pair of the highest
  rank is the same at each step.

Any other text is cut into other tokens that are kept. That needs all single characters, and in
WordPiece those that go on with a word as well. Where each character of each token is a token by
itself, a word is unknown after the pruning if and only if it was before: if it has a character that
is no token. BPE starts from single characters in any case. A vocabulary of which that is not true
is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from canao.errors import InputError
from canao.model.tokenizing.form import Form, kind_of

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # tokens for the bytes of characters that are no token
_REMEDY = "leave out --prune-vocabulary"
_Pair = tuple[str, str]


def needed(
    place: str, form: Form, used: Collection[int], least: int = 0
) -> tuple[int, ...]:
    """The ids, ascending, that a pruned tokenizer keeps: `used`, those of tokens that were added,
    are put into texts or pad them, and of as many more as any other text needs. Where there are
    fewer than `least`, those with the lowest ids are kept as well: vocabularies begin with the
    commonest tokens of what they were made from, whatever their kind.

    InputError, which names `place`, for a tokenizer of which nothing can be left out safely.
    """
    rule = _RULES.get(kind_of(form))
    if rule is None:
        raise InputError(
            f"{place}: a tokenizer of the kind {kind_of(form)} is not pruned, as words that are "
            f"left out would be unknown; {_REMEDY}"
        )
    vocabulary = _vocabulary(place, form)
    apart = _named(form, vocabulary)
    kept = apart | set(used)
    kept |= rule(place, form, vocabulary, apart, kept)
    whole = _whole_words(form)
    more = sorted(i for text, i in vocabulary.items() if i not in kept and whole(text))
    kept |= set(more[: max(0, least - len(kept))])
    return tuple(sorted(kept | rule(place, form, vocabulary, apart, kept)))


def pruned(form: Form, kept: Sequence[int]) -> Form:
    """The form with the tokens `kept` and no others; the id of each is its place among them.

    kept  what `needed` gave for the form
    """
    table = {old: new for new, old in enumerate(kept)}
    model = dict(form["model"])
    if isinstance(model["vocab"], list):
        model["vocab"] = [model["vocab"][i] for i in kept if i < len(model["vocab"])]
        if model.get("unk_id") is not None:
            model["unk_id"] = table[model["unk_id"]]
    else:
        held = sorted((table[i], token) for token, i in model["vocab"].items() if i in table)
        model["vocab"] = {token: i for i, token in held}
    if "merges" in model:
        model["merges"] = [list(pair) for pair in _pairs(form)
                           if {*pair, "".join(pair)} <= model["vocab"].keys()]  # fmt: skip
    padding = form.get("padding")
    return {
        **form,
        "model": model,
        "added_tokens": [{**token, "id": table[token["id"]]} for token in _added(form)],
        "post_processor": _renamed(form.get("post_processor"), table),
        "padding": padding and {**padding, "pad_id": table[padding["pad_id"]]},
    }


def _vocabulary(place: str, form: Form) -> dict[str, int]:
    """The model's tokens and their ids; InputError where a text or an id stands twice."""
    held = form["model"]["vocab"]
    found = {row[0]: i for i, row in enumerate(held)} if isinstance(held, list) else dict(held)
    if len(found) < len(held) or len(set(found.values())) < len(found):
        raise InputError(
            f"{place}: two tokens of its tokenizer have the same text or the same id, so that none "
            f"can be left out; {_REMEDY}"
        )
    return found


def _named(form: Form, vocabulary: Mapping[str, int]) -> set[int]:
    """The ids that the form names beside its vocabulary: they are no part of words."""
    model, padding = form["model"], form.get("padding") or {}
    found = {token["id"] for token in _added(form)} | set(_put_in(form.get("post_processor")))
    unknown = (model.get("unk_id"), vocabulary.get(model.get("unk_token")), padding.get("pad_id"))
    return found | {i for i in unknown if i is not None}


def _added(form: Form) -> list[dict[str, Any]]:
    return form.get("added_tokens") or []


# What any text needs, by the kind of the model. Each rule is called with the place, the form, its
# vocabulary, the ids that are no part of words, and those kept so far.


def _of_wordpiece(
    place: str, form: Form, vocabulary: Mapping[str, int], apart: Collection[int],
    kept: Collection[int],
) -> set[int]:  # fmt: skip
    prefix = _prefix(form)
    whole = _whole_words(form)
    single = set()
    for token, index in vocabulary.items():
        goes_on = 0 < len(prefix) < len(token) and token.startswith(prefix)
        text = token[len(prefix) :] if goes_on else token
        if len(text) == 1:
            single.add(index)
        if index not in apart and whole(token):
            first = prefix if goes_on else ""
            _require(place, token, (first + text[:1], *(prefix + c for c in text[1:])), vocabulary)
    return single


def _of_unigram(
    place: str, form: Form, vocabulary: Mapping[str, int], apart: Collection[int],
    kept: Collection[int],
) -> set[int]:  # fmt: skip
    single = set()
    for token, index in vocabulary.items():
        if len(token) == 1 or _BYTE.fullmatch(token):
            single.add(index)
        elif index not in apart:
            _require(place, token, token, vocabulary)
    return single


def _of_bpe(
    place: str, form: Form, vocabulary: Mapping[str, int], apart: Collection[int],
    kept: Collection[int],
) -> set[int]:  # fmt: skip
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if form["model"].get(name):
            raise InputError(
                f"{place}: a BPE tokenizer with a {name} of '{form['model'][name]:.20}' is not "
                f"pruned; {_REMEDY}"
            )
    found = {i for token, i in vocabulary.items() if len(token) == 1 or _BYTE.fullmatch(token)}
    ranks = {pair: rank for rank, pair in enumerate(_pairs(form))}
    for token, index in vocabulary.items():
        if index in kept and index not in apart:
            found |= {vocabulary[made] for made in _made_on_the_way(token, ranks)
                      if made in vocabulary}  # fmt: skip
    return found


_Rule = Callable[[str, Form, Mapping[str, int], Collection[int], Collection[int]], set[int]]
_RULES: Mapping[str, _Rule] = {
    "WordPiece": _of_wordpiece, "Unigram": _of_unigram, "BPE": _of_bpe
}  # fmt: skip


def _require(
    place: str, token: str, characters: Sequence[str], vocabulary: Mapping[str, int]
) -> None:
    lacking = next((one for one in characters if one not in vocabulary), None)
    if lacking is not None:
        raise InputError(
            f"{place}: its tokenizer has the token '{token:.40}' and not '{lacking:.40}', so that "
            f"words would be unknown if tokens were left out; {_REMEDY}"
        )


def _whole_words(form: Form) -> Callable[[str], bool]:
    """Tells whether a token may be part of a word: BERT's splitter leaves no mark inside of one, so
    that '[unused1]' never is."""
    if (form.get("pre_tokenizer") or {}).get("type") != "BertPreTokenizer":
        return lambda token: True
    from tokenizers.pre_tokenizers import BertPreTokenizer

    split, prefix = BertPreTokenizer().pre_tokenize_str, _prefix(form)

    def whole(token: str) -> bool:
        text = token.removeprefix(prefix) or token
        return text.isalnum() or len(split(text)) == 1

    return whole


def _prefix(form: Form) -> str:
    """What begins the tokens of WordPiece that go on with a word."""
    return str(form["model"].get("continuing_subword_prefix", "##"))


def _pairs(form: Form) -> Iterator[_Pair]:
    """The merges of BPE, the highest rank first; older files have them as one text."""
    for pair in form["model"]["merges"]:
        first, second = pair.split(" ") if isinstance(pair, str) else pair
        yield first, second


def _made_on_the_way(token: str, ranks: Mapping[_Pair, int]) -> Iterator[str]:
    """What BPE makes of a text, from its characters on: the lowest rank first, and of equal ones
    the leftmost."""
    parts = list(token)
    while len(parts) > 1:
        rank, i = min((ranks.get(pair, len(ranks)), i)
                      for i, pair in enumerate(zip(parts, parts[1:], strict=False)))  # fmt: skip
        if rank == len(ranks):
            return
        parts[i : i + 2] = ["".join(parts[i : i + 2])]
        yield parts[i]


def _put_in(part: Any) -> Iterator[int]:
    """The ids that a post-processor puts into texts."""
    for inner in part.get("processors") or () if part else ():
        yield from _put_in(inner)
    for special in (part.get("special_tokens") or {}).values() if part else ():
        yield from special["ids"]
    for name in ("cls", "sep") if part else ():
        if name in part:
            yield part[name][1]


def _renamed(part: Any, table: Mapping[int, int]) -> Any:
    """A post-processor with the new ids."""
    if not part:
        return part
    changed = dict(part)
    if "processors" in part:
        changed["processors"] = [_renamed(inner, table) for inner in part["processors"]]
    if "special_tokens" in part:
        changed["special_tokens"] = {
            name: {**special, "ids": [table[i] for i in special["ids"]]}
            for name, special in part["special_tokens"].items()
        }
    for name in ("cls", "sep"):
        if name in part:
            changed[name] = [part[name][0], table[part[name][1]]]
    return changed
