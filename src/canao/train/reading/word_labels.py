"""Sentences of which each word has a label, as entities have: from .conll files, or from tables
with a list of words and a list of labels in each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from canao.errors import InputError
from canao.inference.tasks.scheme import scheme_of
from canao.train.reading.columns import SINGLES, without_effect
from canao.train.reading.conll import TAGS, TOKENS
from canao.train.reading.examples import Asked, Example, Read, refuse_separator
from canao.train.reading.labels import many, require_known, shares
from canao.train.reading.tables import MISSING, RawTable, is_of_words, listed, shown
from canao.train.task_names import WORDS as TASK

WORD_COLUMNS = (TOKENS, "words")
LABEL_COLUMNS = (TAGS, "ner_tags", "labels", "label")
_OTHER = "other labels of the words, or another form of them"
_Rows = list[tuple[tuple[str, ...], tuple[str, ...]]]


def claims(table: RawTable, asked: Asked) -> bool:
    """Whether a table has lists of words and lists of labels. Where it has the text as well, lists
    of labels may be the text's, unless there are as many labels as words throughout."""
    if is_of_words(table.place):
        return True
    words = next((name for name in WORD_COLUMNS if of_lists(table, name)), None)
    label = asked.label_column(table, LABEL_COLUMNS)
    if words is None or label is None or not of_lists(table, label):
        return False
    both = zip(table.column(words), table.column(label), strict=True)
    return not set(SINGLES) & set(table.columns) or all(
        isinstance(own, (list, tuple)) and isinstance(tags, (list, tuple)) and len(own) == len(tags)
        for own, tags in both
    )


def of_lists(table: RawTable, name: str) -> bool:
    """Whether a table has a column of that name with lists in it, and no other values."""
    if name not in table.columns:
        return False
    values = [v for v in table.column(name) if v is not MISSING and v is not None]
    return bool(values) and all(isinstance(v, (list, tuple)) for v in values)


def read_words(train: RawTable, dev: RawTable | None, asked: Asked) -> Read:
    """Sentences whose words have labels. InputError names the line and the remedy."""
    refuse_separator(asked)
    if asked.unlabelled is not None:
        raise InputError(
            f"--unlabelled {asked.unlabelled}: every word has a label of its own; leave it out, "
            "and sentences without labels too"
        )
    words, label = _columns(train, asked)
    left = _left(train, words, label)
    rows, notes = _rows(train, words, label, least=2)
    counts = Counter(tag for _, tags in rows for tag in tags)
    known = (train.classes or {}).get(label)
    names = known if known is not None and set(counts) <= set(known) else tuple(sorted(counts))
    if len(counts) < 2:
        raise InputError(f"{train.place}: every word has the label '{shown(next(iter(counts)))}'; "
                         "give at least 2 labels")  # fmt: skip
    held = None
    if dev:
        theirs = _columns(dev, asked, missing=f", but {train.place} is of words with labels; give "
                          "both for the same task")  # fmt: skip
        found, more = _rows(dev, *theirs)
        notes += more + ((aside,) if (aside := _left(dev, *theirs)) and aside != left else ())
        require_known(dev, enumerate(dev.column(theirs[1])), names, train.place)
        held = _examples(found, names)
    where = "a line is a word and its label" if is_of_words(train.place) else (
        f"'{shown(words)}' has the words, '{shown(label)}' the label of each"
    )
    said = f"{where}, {_counted(names, counts)}; {scheme_of(names)}"
    return Read(TASK, _examples(rows, names), held, names, (words,), label, said, left, notes)


def sentences(table: RawTable, column: str) -> list[tuple[str, ...]]:
    """The words of each row, of a table without labels."""
    return [
        _strings(table, row, column, value, "word")
        for row, value in enumerate(table.column(column))
    ]


def _columns(table: RawTable, asked: Asked, missing: str = "") -> tuple[str, str]:
    """The columns of words and of labels; `missing` is what an error says where there are none."""
    if is_of_words(table.place) and (asked.texts or asked.label):
        raise InputError(
            f"{table.place}: a line is a word and its label, there are no columns to choose; leave "
            "out --text-columns and --label-column"
        )
    if len(asked.texts) > 1:
        raise InputError(f"--text-columns {','.join(asked.texts)}: give one column, of words")
    words = asked.texts[0] if asked.texts else (
        next((name for name in WORD_COLUMNS if name in table.columns), WORD_COLUMNS[0])
    )
    label = asked.label_column(table, LABEL_COLUMNS) or LABEL_COLUMNS[0]
    for name, option in ((words, "--text-columns"), (label, "--label-column")):
        if name not in table.columns:
            remedy = missing or (
                f"; name it so, give the column's name with {option}, or give a .conll file"
            )
            raise InputError(
                f"{table.place}: no column '{shown(name)}' among {listed(table.columns)}{remedy}"
            )
    if words == label:
        raise InputError(f"column '{words}' cannot have both words and labels; name another one")
    return words, label


def _left(table: RawTable, words: str, label: str) -> str:
    """Which columns are not used, and why; InputError for one with text that nobody knows."""
    found = []
    for name in table.columns:
        if name in (words, label):
            continue
        why = _OTHER if of_lists(table, name) else without_effect(table, name)
        if why is None and name in SINGLES:
            why = "the text whose words are used"
        if why is None:
            raise InputError(
                f"{table.place}: '{shown(name)}' has text that would not be used beside {words}; "
                "remove the column"
            )
        found.append(f"'{shown(name)}' ({why})")
    return f"not used: {', '.join(found)}" if found else ""


def _rows(
    table: RawTable, words: str, label: str, least: int = 1
) -> tuple[_Rows, tuple[str, ...]]:
    """Words and labels of each row that has any, `least` at least, and what was left out."""
    rows: _Rows = []
    both = zip(table.column(words), table.column(label), strict=True)
    for row, (texts, tags) in enumerate(both):
        own = _strings(table, row, words, texts, "word")
        theirs = _strings(table, row, label, tags, "label")
        if len(own) != len(theirs):
            raise InputError(
                f"{table.at(row)}: {len(own)} words in '{shown(words)}' and {len(theirs)} labels "
                f"in '{shown(label)}'; give each word one label"
            )
        if own:
            rows.append((own, theirs))
    if len(rows) < least:
        raise InputError(f"{table.place}: {many(len(rows))} with words; give at least {least}")
    empty = len(table.rows) - len(rows)
    return rows, (f"{many(empty)} without words left out of {table.place}",) if empty else ()


def _strings(table: RawTable, row: int, name: str, value: Any, what: str) -> tuple[str, ...]:
    """The entries of a list; InputError unless it is one, of strings that are not empty."""
    if value is MISSING:
        raise InputError(f"{table.at(row)}: no '{shown(name)}'; add it to the line")
    if not isinstance(value, (list, tuple)):
        raise InputError(
            f"{table.at(row)}: '{shown(name)}' is no list; give a list with a string for each "
            "word, in a .jsonl file, or a .conll file with a word and its label on each line"
        )
    for i, entry in enumerate(value, start=1):
        if isinstance(entry, str) and entry.strip():
            continue
        if isinstance(entry, (int, float)):
            more = ", as \"B-person\"" if what == "label" else ""
            raise InputError(
                f"{table.at(row)}: entry {i} of '{shown(name)}' is the number {entry}; write the "
                f"{what} itself, in quotes{more}"
            )
        raise InputError(
            f"{table.at(row)}: entry {i} of '{shown(name)}' is no {what}; fill it in, or remove "
            "the word and its label"
        )
    return tuple(value)


def _examples(
    rows: Iterable[tuple[tuple[str, ...], tuple[str, ...]]], names: Sequence[str]
) -> tuple[Example, ...]:
    index = {name: i for i, name in enumerate(names)}
    return tuple(
        Example(" ".join(words), None, tuple(index[tag] for tag in tags), words)
        for words, tags in rows
    )


def _counted(names: Sequence[str], counts: Counter[str]) -> str:
    """How many words there are, and how many have each label."""
    return f"{counts.total()} words with {len(names)} labels: {shares(names, counts)}"
