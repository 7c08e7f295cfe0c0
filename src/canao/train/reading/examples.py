"""Examples, and how those of texts with one label each are made of tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from canao.errors import InputError
from canao.train.reading.columns import Columns, understand
from canao.train.reading.labels import Labels, counted, read_dev_labels, read_labels
from canao.train.reading.tables import MISSING, RawTable, is_of_words
from canao.train.task_names import SEVERAL, WORDS

# A class index, a value, or the indices of several classes: those that a text has, or of a sentence
# the class of each word. None: several, and nobody says which.
# Of texts whose vectors are learnt, the teacher's vector.
Label = int | float | tuple[int, ...] | tuple[float, ...] | None
_WORD = re.compile(r"\S+")
NO_CLASS = -100  # the label of an example without one; where labels are values, it is not a number


@dataclass(frozen=True, slots=True)
class Example:
    """One text, or pair of texts, and its label. `words` are those that have a class each, which
    the text is with blanks between; None: what stands between blanks."""

    text: str
    pair: str | None
    label: Label
    words: tuple[str, ...] | None = None


def classes_in(label: Label) -> tuple[int, ...] | None:
    """The classes in a label of several; None for a label of another kind."""
    return cast("tuple[int, ...]", label) if isinstance(label, tuple) else None


def word_spans(example: Example) -> list[tuple[int, int]]:
    """Where the words of an example begin and end in its text."""
    if example.words is None:
        return [found.span() for found in _WORD.finditer(example.text)]
    spans, start = list[tuple[int, int]](), 0
    for word in example.words:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return spans


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user said of the data; see `data.load_data`."""

    task: str | None = None
    texts: Sequence[str] = ()
    label: str | None = None
    unlabelled: str | None = None
    separator: str | None = None

    def label_column(self, table: RawTable, usual: Sequence[str]) -> str | None:
        """The column of labels: the one that was named, else the first of the `usual` ones that is
        there."""
        if self.label is not None:
            return self.label
        return next((name for name in usual if name in table.columns), None)


@dataclass(frozen=True, slots=True)
class Read:
    """What a task found in the tables.

    dev        None: there is no such table
    names      of the classes; none where there are none
    columns    that the texts came from, and `label` the labels
    said       what columns and labels are, in a line for people; `left` what columns are not used,
               and `notes` more of what there is to know
    """

    task: str
    train: tuple[Example, ...]
    dev: tuple[Example, ...] | None
    names: tuple[str, ...]
    columns: tuple[str, ...]
    label: str
    said: str
    left: str
    notes: tuple[str, ...]


def read_texts(train: RawTable, dev: RawTable | None, asked: Asked) -> Read:
    """Texts, or pairs of them, with a class or a value each; which of the two it is, the labels say
    where no task is asked for."""
    refuse_separator(asked)
    refuse_words(train, dev)
    columns = understand(train, asked.texts, asked.label)
    notes = dev_notes(train, dev, columns, asked.texts)
    texts = strings(train, columns.texts)
    labels = read_labels(train, columns.label, asked.task, asked.unlabelled)
    examples, held = _examples(texts, labels), None
    notes = (*notes, labels.note)
    if dev:
        texts = strings(dev, columns.texts)
        found = read_dev_labels(dev, columns.label, labels.names, asked.unlabelled, train.place)
        held, notes = _examples(texts, found), (*notes, found.note)
    return Read(
        "", examples, held, labels.names, columns.texts, columns.label,
        f"{columns}, {counted(labels)}", columns.left, notes,
    )  # fmt: skip


def dev_notes(
    train: RawTable, dev: RawTable | None, columns: Columns, asked: Sequence[str]
) -> tuple[str, ...]:
    """What differs in the development table; InputError if its texts are in other columns."""
    if dev is None:
        return ()
    found = understand(dev, asked, columns.label)
    if found.texts != columns.texts:
        raise InputError(
            f"{dev.place}: text in {' and '.join(found.texts)}, but {train.place} has it in "
            f"{' and '.join(columns.texts)}; use the same columns in both files"
        )
    same = set(found.unused) <= set(columns.unused)
    return () if same else (f"{dev.place}: {found.left}",)


def strings(table: RawTable, columns: Sequence[str]) -> list[list[str]]:
    """The texts of each column, [columns][rows]; InputError where one is missing or no text."""
    return [
        [_string(table, row, name, value) for row, value in enumerate(table.column(name))]
        for name in columns
    ]


def with_pairs(texts: Sequence[Sequence[str]]) -> Iterator[tuple[str, str | None]]:
    """Text and second text of each row. texts  [columns][rows]"""
    for row in zip(*texts, strict=True):
        yield row[0], row[1] if len(row) > 1 else None


def refuse_separator(asked: Asked) -> None:
    """InputError if labels are to be parted, of which each example has one."""
    if asked.separator is not None:
        raise InputError(
            f"--label-separator {asked.separator}: no example or word of this task has several "
            f"labels; leave it out, or give --task {SEVERAL}"
        )


def refuse_words(train: RawTable, dev: RawTable | None) -> None:
    """InputError if a table is of words with labels, and the task of whole texts."""
    for table in (train, *([dev] if dev else [])):
        if not is_of_words(table.place):
            continue
        if table is train:
            raise InputError(
                f"{table.place}: has a label for each word; give --task {WORDS}, or data with a "
                "label for each text"
            )
        raise InputError(
            f"{table.place}: has a label for each word, and {train.place} one for each text; give "
            "both for the same task"
        )


def _examples(texts: Sequence[Sequence[str]], labels: Labels) -> tuple[Example, ...]:
    """The rows that have a label. texts  [columns][rows]"""
    index = {name: i for i, name in enumerate(labels.names)}
    both = list(with_pairs(texts))
    return tuple(
        Example(*both[row], index[label] if labels.names else float(label))
        for row, label in zip(labels.rows, labels.texts, strict=True)
    )


def _string(table: RawTable, row: int, name: str, value: object) -> str:
    if value is MISSING:
        raise InputError(f"{table.at(row)}: no '{name}'; add it to the line")
    if not isinstance(value, str):
        raise InputError(f"{table.at(row)}: '{name}' is not a string; write it in quotes")
    return value
