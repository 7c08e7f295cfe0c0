"""Texts that have any number of labels each: lists in JSON, or text with a separator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from canao.errors import InputError
from canao.train.reading.columns import LABEL, understand
from canao.train.reading.examples import (
    Asked,
    Example,
    Read,
    dev_notes,
    refuse_words,
    strings,
    with_pairs,
)
from canao.train.reading.labels import many, ordered, require_known, shares
from canao.train.reading.tables import MISSING, RawTable, shown
from canao.train.reading.word_labels import of_lists
from canao.train.task_names import SEVERAL

LABEL_COLUMNS = (LABEL, "labels")


@dataclass(frozen=True, slots=True)
class _Sets:
    """The labels of each row that is used, and what was left out, in words."""

    rows: tuple[int, ...]
    sets: tuple[tuple[str, ...], ...]
    note: str


def claims(table: RawTable, asked: Asked) -> bool:
    """Whether the labels of a table are lists."""
    label = asked.label_column(table, LABEL_COLUMNS)
    return label is not None and of_lists(table, label)


def read_sets(train: RawTable, dev: RawTable | None, asked: Asked) -> Read:
    """Texts, or pairs of them, with any number of labels each, none included. InputError names the
    line and the remedy."""
    refuse_words(train, dev)
    columns = understand(train, asked.texts, asked.label_column(train, LABEL_COLUMNS))
    notes = dev_notes(train, dev, columns, asked.texts)
    texts = strings(train, columns.texts)
    found = _sets(train, columns.label, asked, least=2)
    counts = Counter(name for names in found.sets for name in names)
    if not counts:
        raise InputError(f"{train.place}: no example has a label; give some that have")
    names = (train.classes or {}).get(columns.label) or ordered(counts)
    notes, held = (*notes, found.note), None
    if dev:
        theirs = _sets(dev, columns.label, asked)
        require_known(dev, zip(theirs.rows, theirs.sets, strict=True), names, train.place)
        held = _examples(strings(dev, columns.texts), theirs, names)
        notes = (*notes, theirs.note)
    return Read(
        SEVERAL, _examples(texts, found, names), held, tuple(names), columns.texts, columns.label,
        f"{columns}, {_counted(names, counts, found.sets)}", columns.left, notes,
    )  # fmt: skip


def _sets(table: RawTable, column: str, asked: Asked, least: int = 1) -> _Sets:
    rows, sets = list[int](), list[tuple[str, ...]]()
    for row, value in enumerate(table.column(column)):
        names = _names(table, row, column, value, asked)
        if names is not None:
            rows.append(row)
            sets.append(names)
    if len(rows) < least:
        raise InputError(f"{table.place}: {many(len(rows))}; give at least {least}")
    left = len(table.rows) - len(rows)
    said = asked.unlabelled
    what = "without a label" if said is None else f"labelled '{shown(said)}'"
    note = f"{many(left)} {what} left out of {table.place}" if left else ""
    return _Sets(tuple(rows), tuple(sets), note)


def _names(
    table: RawTable, row: int, column: str, value: Any, asked: Asked
) -> tuple[str, ...] | None:
    """The labels of a row; None if it has nothing to say which they are."""
    at = table.at(row)
    if value is MISSING:
        raise InputError(f"{at}: no '{shown(column)}'; add it to the line, [] where no label is "
                         "right")  # fmt: skip
    if value is None and table.classes is not None:
        return None
    if isinstance(value, str):
        names = _parted(at, value, asked)
    elif isinstance(value, (list, tuple)):
        if asked.separator is not None:
            raise InputError(f"{at}: labels are a list, which --label-separator parts no further; "
                             "leave it out")  # fmt: skip
        names = _listed(at, column, value)
    else:
        kind = "null" if value is None else "no list"
        raise InputError(f"{at}: '{shown(column)}' is {kind}; give a list of labels, [] where none "
                         "is right")  # fmt: skip
    if asked.unlabelled is not None and names == (asked.unlabelled,):
        return None
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{at}: label '{shown(twice)}' stands twice; give it once")
    return names


def _parted(at: str, text: str, asked: Asked) -> tuple[str, ...]:
    """The labels that a text has between separators; none in an empty one."""
    if asked.separator is None:
        raise InputError(
            f"{at}: labels are text, '{shown(text)}'; say what stands between two of them, as "
            "--label-separator ',', or give lists, in a .jsonl file"
        )
    if not text.strip():
        return ()
    names = tuple(name.strip() for name in text.split(asked.separator))
    if not all(names):
        raise InputError(f"{at}: an empty label in '{shown(text)}'; remove the separator beside it")
    return names


def _listed(at: str, column: str, value: Sequence[Any]) -> tuple[str, ...]:
    """The labels of a list."""
    for i, entry in enumerate(value, start=1):
        if isinstance(entry, (int, float)):
            raise InputError(
                f"{at}: entry {i} of '{shown(column)}' is the number {json_of(entry)}; give the "
                "names of the labels that are right, in quotes"
            )
        if not isinstance(entry, str) or not entry.strip():
            raise InputError(f"{at}: entry {i} of '{shown(column)}' is no label; give its name, or "
                             "remove it")  # fmt: skip
    return tuple(entry.strip() for entry in value)


def json_of(value: float) -> str:
    """A number or a truth value as JSON writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _examples(
    texts: Sequence[Sequence[str]], found: _Sets, names: Sequence[str]
) -> tuple[Example, ...]:
    """The rows that are used. texts  [columns][rows]"""
    index, both = {name: i for i, name in enumerate(names)}, list(with_pairs(texts))
    return tuple(
        Example(*both[row], tuple(sorted(index[name] for name in own)))
        for row, own in zip(found.rows, found.sets, strict=True)
    )


def _counted(
    names: Sequence[str], counts: Counter[str], sets: Sequence[tuple[str, ...]]
) -> str:
    """How many examples each label has, and how many have none or several."""
    none, several = sum(not own for own in sets), sum(len(own) > 1 for own in sets)
    return (f"{len(names)} labels: {shares(names, counts)}; {many(several)} with several, {none} "
            "with none")  # fmt: skip
