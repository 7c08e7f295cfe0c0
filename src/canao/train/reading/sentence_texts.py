"""Texts whose vectors students learn of their teacher: one a line, columns of a table, or pairs
with a score of how alike they are, by which vectors are compared in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from canao.errors import InputError
from canao.train.reading.columns import LABEL, PAIRS, SINGLES, texts_alone, understand
from canao.train.reading.examples import (
    Asked,
    Example,
    Read,
    refuse_separator,
    refuse_words,
    strings,
    with_pairs,
)
from canao.train.reading.labels import many, read_labels
from canao.train.reading.tables import RawTable, listed
from canao.train.task_names import REGRESSION, VECTORS

SCORES = (LABEL, "score", "similarity_score", "relatedness_score")


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of texts, that of their pairs' scores, '' without such, and what is not used."""

    texts: tuple[str, ...]
    label: str
    left: str


def read_sentences(train: RawTable, dev: RawTable | None, asked: Asked) -> Read:
    """Texts, with scores of pairs where there are some. InputError names line and remedy."""
    refuse_separator(asked)
    refuse_words(train, dev)
    columns = _columns(train, asked)
    examples, notes = _examples(train, columns, asked, least=2)
    held = None
    if dev:
        theirs = _columns(dev, asked)
        held, more = _examples(dev, theirs, asked)
        notes += more + ((theirs.left,) if theirs.left != columns.left else ())
    said = "pairs with scores, by which vectors are compared" if columns.label else (
        "texts, whose vectors are compared with the teacher's"
    )
    where = " and ".join(f"'{name}'" for name in columns.texts)
    return Read(
        VECTORS, examples, held, (), columns.texts, columns.label, f"{where}: {said}",
        columns.left, notes,
    )  # fmt: skip


def _columns(table: RawTable, asked: Asked) -> _Columns:
    """What columns are for."""
    label = asked.label or next((name for name in SCORES if name in table.columns), None)
    if label is not None:
        found = understand(table, asked.texts, label)
        if len(found.texts) == 2:
            return _Columns(found.texts, label, found.left)
        if asked.label is not None:
            raise InputError(
                f"{table.place}: --label-column {label} is of a single text, and only scores of "
                "pairs are used; leave it out"
            )
    texts = tuple(asked.texts) or _texts(table)
    return _Columns(texts, "", texts_alone(table, texts, label or ""))


def _texts(table: RawTable) -> tuple[str, ...]:
    pair = next((pair for pair in PAIRS if set(pair) <= set(table.columns)), None)
    single = next(((name,) for name in SINGLES if name in table.columns), None)
    if pair is None and single is None:
        raise InputError(
            f"{table.place}: no text column among {listed(table.columns)}; name it 'sentence', or "
            "give its name with --text-columns"
        )
    return pair or single or ()


def _examples(
    table: RawTable, columns: _Columns, asked: Asked, least: int = 1
) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """The examples of a table, and what was left out of it."""
    rows, scores, note = list(with_pairs(strings(table, columns.texts))), dict[int, float](), ""
    if columns.label:
        found = read_labels(table, columns.label, REGRESSION, asked.unlabelled)
        scores = {row: float(text) for row, text in zip(found.rows, found.texts, strict=True)}
        note = found.note
    elif asked.unlabelled is not None:
        raise InputError(f"--unlabelled {asked.unlabelled}: no labels are read; leave it out")
    kept = [(row, both) for row, both in enumerate(rows)
            if all(text.strip() for text in both if text is not None)]  # fmt: skip
    examples = tuple(
        Example(*both, scores.get(row)) for row, both in kept if row in scores or not columns.label
    )
    if len(examples) < least:
        raise InputError(f"{table.place}: {many(len(examples))}; give at least {least}")
    empty = len(rows) - len(kept)
    notes = (note, f"{many(empty)} with an empty text left out of {table.place}" if empty else "")
    return examples, tuple(line for line in notes if line)


def single_texts(examples: Sequence[Example]) -> list[Example]:
    """Each text by itself: both of a pair, one after the other."""
    return [
        Example(text, None, None)
        for e in examples
        for text in ((e.text,) if e.pair is None else (e.text, e.pair))
    ]
