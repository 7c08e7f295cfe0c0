"""What the columns of labelled text mean: texts, the label, or nothing that training could use.

Every column of a file is one of these, by name or by what stands in it, and anything else is an
error that names the column: no text is left out in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from canao.errors import InputError
from canao.model.inventory.table import INERT, Table, inert, used
from canao.train.reading.tables import MISSING, RawTable, listed, shown

_NUMBERS = "it numbers the examples"
_ORIGIN = "it says where a text comes from"
_FORM = "another form of a text that is used"
_WHEN = "when the example was made"
_OTHER = "another label; --label-column {name} takes it in place of the one that is used"

# Which columns of a data file are used, and which have no effect, by their name in lower case.
COLUMNS = Table(
    entries={
        "label": used("the class of an example, or its value"),
        "sentence": used("the text"),
        "text": used("the text"),
        "": inert("a column without a name: pandas writes its index so"),
        "idx": inert(_NUMBERS),
        "index": inert(_NUMBERS),
        "row": inert(_NUMBERS),
        "rowid": inert(_NUMBERS),
        "__index_level_0__": inert("the index of pandas"),
        "split": inert("the file says which part of the data it is"),
        "fold": inert("the file says which part of the data it is"),
        "source": inert(_ORIGIN),
        "url": inert(_ORIGIN),
        "link": inert(_ORIGIN),
        "genre": inert(_ORIGIN),
        "domain": inert(_ORIGIN),
        "author": inert(_ORIGIN),
        "user": inert(_ORIGIN),
        "username": inert(_ORIGIN),
        "user_name": inert(_ORIGIN),
        "annotator": inert("it says who labelled the example"),
        "date": inert(_WHEN),
        "time": inert(_WHEN),
        "timestamp": inert(_WHEN),
        "created_at": inert(_WHEN),
        "lang": inert("the language of the text"),
        "language": inert("the language of the text"),
        "label_text": inert(_OTHER),
        "label_name": inert(_OTHER),
        "label_names": inert(_OTHER),
        "gold_label": inert(_OTHER),
        "coarse_label": inert(_OTHER),
        "fine_label": inert(_OTHER),
        "annotator_labels": inert("labels that single annotators gave"),
        "sentence1_parse": inert(_FORM),
        "sentence2_parse": inert(_FORM),
        "sentence1_binary_parse": inert(_FORM),
        "sentence2_binary_parse": inert(_FORM),
        "tokens": inert(_FORM),
        "input_ids": inert(_FORM),
        "attention_mask": inert(_FORM),
        "token_type_ids": inert(_FORM),
    },
    patterns={
        r"unnamed: \d+": inert("the index that pandas wrote, read back"),
        r"#?\d* ?(gu|uu|u|g|q)?ids?": inert("it identifies the example"),
        r".*[_ -](gu|uu|u|g)?ids?": inert("it identifies the example"),
        r"(pair|prompt|sentence|question|example|doc|document|tweet|user|text)ids?": inert(
            "it identifies the example"
        ),
    },
)  # fmt: skip
# A column with any other reason is a text in spite of its name if it has sentences.
_NEVER_TEXT = (_FORM, _WHEN, _OTHER)
_SENTENCE = 4  # words: what has fewer may be a name

_GLUE, _SUPER = "GLUE's", "SuperGLUE's"
# Names of two columns that are a pair of texts, in their order, and who calls them so.
PAIRS = {
    ("sentence1", "sentence2"): f"{_GLUE} MRPC, STS-B, RTE and WNLI",
    ("question1", "question2"): f"{_GLUE} QQP",
    ("question", "sentence"): f"{_GLUE} QNLI",
    ("premise", "hypothesis"): f"{_GLUE} MNLI, {_SUPER} CB and RTE, SNLI, XNLI, ANLI",
    ("question", "passage"): f"{_SUPER} BoolQ",
    ("question", "context"): "SQuAD, for whether a question has an answer",
    ("question", "answer"): "WikiQA",
    ("question", "text"): "search",
    ("question", "document"): "search",
    ("query", "document"): "search",
    ("query", "passage"): "MS MARCO",
    ("query", "text"): "search",
    ("query", "doc"): "search",
    ("query", "answer"): "search",
    ("query", "response"): "search",
    ("query", "title"): "search for products",
    ("query", "product_title"): "Amazon's shopping queries",
    ("claim", "evidence"): "FEVER",
    ("claim", "text"): "FEVER",
    ("text", "text_pair"): "Transformers' tokenizers and pipeline",
    ("text", "text2"): "two texts",
    ("text1", "text2"): "SetFit and MTEB",
    ("text_1", "text_2"): "two texts",
    ("text_a", "text_b"): "BERT's own InputExample",
    ("texta", "textb"): "two texts",
    ("sentence", "sentence2"): "two sentences",
    ("sentence_1", "sentence_2"): "two sentences",
    ("sentence_a", "sentence_b"): "SICK, in lower case",
    ("sentence_A", "sentence_B"): "SICK",
    ("sent1", "sent2"): "two sentences",
    ("s1", "s2"): "two sentences",
    ("anchor", "candidate"): "two texts",
    ("title", "text"): "a text with its title",
    ("title", "content"): "DBpedia and Amazon reviews",
    ("title", "body"): "a text with its title",
    ("title", "abstract"): "papers",
    ("title", "description"): "AG News, as it first came",
    ("headline", "text"): "a text with its title",
    ("headline", "body"): "the Fake News Challenge",
    ("subject", "body"): "mail",
    ("subject", "message"): "mail",
    ("subject", "text"): "mail",
}
SINGLES = ("sentence", "text")
LABEL = "label"


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a table are for.

    texts    one column, or two that are a pair
    label    the column with classes or values
    pair     who names a pair of texts so; '' if the user did, or there is one text
    unused   of all other columns: name, and why it has no effect
    """

    texts: tuple[str, ...]
    label: str
    pair: str
    unused: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """What is the text, and what the label."""
        first = f"'{shown(self.texts[0])}' is the text"
        if len(self.texts) == 2:
            by = f", as in {self.pair}" if self.pair else ""
            first = f"'{shown(self.texts[0])}' and '{shown(self.texts[1])}' are a pair of texts{by}"
        return f"{first}, '{shown(self.label)}' is the label"

    @property
    def left(self) -> str:
        """Which columns are not used, and why; '' if all are."""
        rest = ", ".join(f"{_quoted(name)} ({why})" for name, why in self.unused)
        return f"not used: {rest}" if rest else ""


def understand(
    table: RawTable, texts: Sequence[str] = (), label: str | None = None
) -> Columns:
    """What each column of a table is for.

    `texts` and `label` are names that the user gave; without them the columns are known by their
    names. InputError if a column of text would not be used, or one that is needed is missing.
    """
    _check_named(table, texts, label)
    label = _label(table, label)
    rest = [name for name in dict.fromkeys(table.columns) if name != label]
    unused: dict[str, str] = {}
    left: list[str] = []
    for name in rest:
        if name in texts:
            continue
        why = without_effect(table, name)
        if why is None and texts:
            why = "it is not among the columns named by --text-columns"
        if why is None:
            left.append(name)
        else:
            unused[name] = why
    found, pair = (tuple(texts), _named_by(texts)) if texts else _texts(table, left, label)
    return Columns(found, label, pair, tuple(unused.items()))


def texts_alone(table: RawTable, texts: Sequence[str], label: str) -> str:
    """Which columns of a table without labels are not used, and why; '' if all are.

    `texts` and `label` are the columns of the labelled data; InputError if a text is missing.
    """
    for name in texts:
        if name not in table.columns:
            raise InputError(
                f"{table.place}: no column '{shown(name)}' among {listed(table.columns)}; texts "
                "must be in the columns that they are in with labels"
            )
    rest = [name for name in dict.fromkeys(table.columns) if name not in texts]
    why = {
        name: "no label of this file is used" if name == label else
        without_effect(table, name) or "it is no text of the labelled data"
        for name in rest
    }  # fmt: skip
    left = Columns(tuple(texts), label, "", tuple(why.items())).left
    return f"{table.place}: {left}" if left else ""


def _check_named(table: RawTable, texts: Sequence[str], label: str | None) -> None:
    if len(texts) > 2 or len(set(texts)) < len(texts):
        raise InputError(f"--text-columns {','.join(texts)}: give one column, or two that differ")
    for name in (*texts, *([label] if label is not None else [])):
        if name not in table.columns:
            raise InputError(f"{table.place}: no column '{shown(name)}' among "
                             f"{listed(table.columns)}; give the name of one")  # fmt: skip
    if label in texts:
        raise InputError(f"column '{label}' cannot be both text and label; name another one")


def _label(table: RawTable, label: str | None) -> str:
    if label is not None:
        return label
    if LABEL in table.columns:
        return LABEL
    remedy = f"name it '{LABEL}', or give the column's name with --label-column"
    if any(_is_text(name) or _is_number(name) for name in table.columns):
        remedy = "line 1 looks like an example: write a header above it, such as sentence, label"
    raise InputError(f"{table.place}: no column '{LABEL}' among {listed(table.columns)}; {remedy}")


def _texts(table: RawTable, left: Sequence[str], label: str) -> tuple[tuple[str, ...], str]:
    """The columns of text among `left`, which are all that nothing else is known of."""
    for pair, by in PAIRS.items():
        if set(pair) == set(left):
            return pair, by
    if len(left) == 1 and left[0] in SINGLES:
        return (left[0],), ""
    known = next((p for p in PAIRS if set(p) <= set(left)), None) or next(
        ((name,) for name in SINGLES if name in left), None
    )
    if known is None:
        among = [name for name in left if name] or [n for n in table.columns if n != label]
        raise InputError(
            f"{table.place}: no text column among {listed([*among, label])}; name it 'sentence', "
            "or for pairs 'sentence1' and 'sentence2', or give its name with --text-columns"
        )
    extra = [name for name in left if name not in known]
    asked = " and ".join(f"'{shown(name)}'" for name in extra)
    many = len(extra) > 1
    names = ",".join([*known, *extra][:2]) if len(known) == 1 else ",".join(known)
    raise InputError(
        f"{table.place}: {asked} {'have' if many else 'has'} text that would not be used beside "
        f"{' and '.join(known)}; remove {'the columns' if many else 'the column'}, or name the "
        f"columns to use, as --text-columns {shown(names)}"
    )


def without_effect(table: RawTable, name: str) -> str | None:
    """Why a column has no effect; None if it is text, or anything that is not known."""
    values = [v for v in table.column(name) if v is not MISSING and v is not None and v != ""]
    if not values:
        return "it is empty"
    if name in SINGLES:
        return None
    if name == LABEL:  # and another column is the label
        return _OTHER.format(name=name)
    entry = COLUMNS.find(name.lower())
    if entry is not None and entry.status == INERT:
        doubtful = entry.does not in _NEVER_TEXT
        if not (doubtful and _mostly(_is_text, values)):
            return entry.does.format(name=shown(name))
    if all(isinstance(v, bool) or _is_number(v) for v in values):
        return "it has numbers, no text"
    if not any(isinstance(v, (str, dict, list, tuple)) for v in values):
        return "it has no text"
    return None


def _mostly(test: Callable[[Any], bool], values: Sequence[Any]) -> bool:
    return 2 * sum(map(test, values)) > len(values)


def _is_text(value: object) -> bool:
    """Whether a value is a sentence, rather than a name or an identifier."""
    return isinstance(value, str) and len(value.split()) >= _SENTENCE


def _is_number(value: object) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", value) is not None
    return isinstance(value, (int, float))


def _quoted(name: str) -> str:
    return f"'{shown(name)}'" if name else "a column without a name"


def _named_by(texts: Sequence[str]) -> str:
    """Who calls a pair of texts so; '' if nobody that is known."""
    return next((by for pair, by in PAIRS.items() if pair == tuple(texts)), "")
