"""What the labels of a data set are: names of classes, or values to predict."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from canao.errors import InputError
from canao.train.reading.tables import MISSING, RawTable, shown
from canao.train.task_names import CLASSIFICATION, REGRESSION, SEVERAL

UNLABELLED = "-1"  # in the test sets of GLUE, and in SNLI as the `datasets` package has it
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")
_NOT_FINITE = {"nan", "inf", "infinity"}
# What programs write where a value is missing. A class may be called so, but no number is.
_ABSENT = {"na", "n/a", "#n/a", "null", "none", "<na>", "nil", "-", "?"}
_EXACT = 2**53  # whole numbers that a float holds exactly


@dataclass(frozen=True, slots=True)
class Labels:
    """The label of each row that has one.

    names   of the classes, in order; none for a regression
    rows    the rows that are used, by their number in the table
    texts   of these rows, the label as a class is called, or as the value was written
    note    what the user should know of how labels were understood; '' if it goes without saying
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    texts: tuple[str, ...]
    note: str = ""


def read_labels(
    table: RawTable, column: str, task: str | None, without: str | None
) -> Labels:
    """The labels of a training table; InputError names the line of one that cannot be used.

    task      one of TASKS; None: values if they plainly are real numbers, else classes
    without   what the label says where there is none: such rows are left out, and counted

    Whole numbers are classes however they are written: 1, 1.0 and 1e0 are class 1. Classes are
    ordered by number if all names are whole numbers, else by name, or as the data set orders them.
    """
    rows, texts, note = _labelled(table, column, without)
    if len(rows) < 2:
        raise InputError(f"{table.place}: {many(len(rows))}; give at least 2")
    known = (table.classes or {}).get(column)
    if known is not None and task != REGRESSION:
        _check_differ(table, texts)
        return Labels(known, rows, texts, note)
    numbers = [as_number(text) for text in texts]
    _check_numbers(table, rows, texts, numbers, task)
    real = None not in numbers and not all(n is not None and n.is_integer() for n in numbers)
    if task == REGRESSION or (real and task is None):
        if len(set(numbers)) == 1:
            raise InputError(f"{table.place}: every label is {texts[0]}; give values that differ")
        said = "" if task else "labels are real numbers, so this is a regression"
        return Labels((), rows, texts, "; ".join(filter(None, (note, said))))
    texts = tuple(map(class_name, texts)) if None not in numbers else texts
    _check_differ(table, texts)
    counts = Counter(texts)
    if real and 2 * len(counts) > len(texts):
        raise InputError(
            f"{table.place}: {len(counts)} labels that differ in {len(texts)} examples, such as "
            f"{texts[0]}; for a regression give --task {REGRESSION}"
        )
    names = ordered(counts)
    return Labels(names, rows, texts, "; ".join(filter(None, (note, _doubt(names, counts)))))


def read_dev_labels(
    table: RawTable, column: str, names: Sequence[str], without: str | None, train: str
) -> Labels:
    """The labels of a development table, which must be among `names`; none: values.

    train   what messages call the training table
    """
    rows, texts, note = _labelled(table, column, without)
    if not names:
        numbers = [as_number(text) for text in texts]
        _check_numbers(table, rows, texts, numbers, REGRESSION)
        return Labels((), rows, texts, note)
    given = set(names)
    texts = tuple(t if t in given else class_name(t) for t in texts)
    if set(texts) == {UNLABELLED} and UNLABELLED not in given:
        raise InputError(f"{table.place}: every label is -1, which says 'no label' in test sets; "
                         "give examples with labels, or leave the file out")  # fmt: skip
    require_known(table, zip(rows, ((text,) for text in texts), strict=True), names, train)
    return Labels(tuple(names), rows, texts, note)


def require_known(
    table: RawTable, labels: Iterable[tuple[int, Iterable[str]]], names: Sequence[str], train: str
) -> None:
    """InputError for a label that no training example has. `labels`: of each row those it has;
    `names`: of the training examples in the file `train`."""
    given = set(names)
    for row, own in labels:
        other = next((name for name in own if name not in given), None)
        if other is not None:
            raise InputError(
                f"{table.at(row)}: label '{shown(other)}' is not among the {len(given)} of "
                f"{train}; correct it, or add training examples of it"
            )


def class_name(text: str) -> str:
    """What a class is called: numbers alike however they are written, other text as it is."""
    number = as_number(text)
    if number is None or not math.isfinite(number) or _WHOLE.fullmatch(text):
        return text
    whole = number.is_integer() and abs(number) < _EXACT
    return str(int(number)) if whole else repr(number)


def many(count: int) -> str:
    """A number of examples, in words."""
    return f"{count} example" if count == 1 else f"{count} examples"


def counted(labels: Labels) -> str:
    """How many examples each class has, or between which values they lie."""
    if not labels.names:
        values = [float(text) for text in labels.texts]
        return f"values from {min(values):g} to {max(values):g}"
    counts = Counter(labels.texts)
    return f"{len(labels.names)} classes: {shares(labels.names, counts)}"


def shares(names: Sequence[str], counts: Mapping[str, int]) -> str:
    """How often each label stands, of the first eight at most."""
    each = [f"{shown(name, 20)} ({counts[name]})" for name in names[:8]]
    return ", ".join(each) + (", ..." if len(names) > 8 else "")


def _labelled(
    table: RawTable, column: str, without: str | None
) -> tuple[tuple[int, ...], tuple[str, ...], str]:
    """The rows with a label, their labels as text, and how many were left out, in words."""
    known = (table.classes or {}).get(column)
    rows, texts, left = [], [], 0
    for row, value in enumerate(table.column(column)):
        text = _text(table, row, column, value)
        # Data sets that name their classes have -1 or nothing where there is no label.
        if text in ("", without) or (known is not None and text not in known):
            left += 1
            continue
        rows.append(row)
        texts.append(text)
    what = f"labelled '{shown(without)}'" if without is not None and known is None else (
        "without a label"
    )
    if not rows:
        raise InputError(f"{table.place}: has only {many(left)} {what}; give labelled ones")
    note = f"{many(left)} {what} left out of {table.place}" if left else ""
    return tuple(rows), tuple(texts), note


def _text(table: RawTable, row: int, column: str, value: Any) -> str:
    if value is MISSING:
        raise InputError(f"{table.at(row)}: no '{shown(column)}'; add it to the line")
    if not isinstance(value, (str, bool, int, float)):
        if table.classes is not None and value is None:
            return ""
        raise InputError(f"{table.at(row)}: label is neither a string nor a number; give one label "
                         f"of them, or --task {SEVERAL} if lists say which are right")  # fmt: skip
    text = value.strip() if isinstance(value, str) else json.dumps(value)
    if not text:
        raise InputError(f"{table.at(row)}: empty label in column '{shown(column)}'; fill it in")
    return text


def as_number(text: str) -> float | None:
    """A label as a number, which may be infinite or NaN; None if it is none."""
    if _NUMBER.fullmatch(text) or text.lstrip("+-").lower() in _NOT_FINITE:
        return float(text)
    return None


def _check_numbers(
    table: RawTable, rows: Sequence[int], texts: Sequence[str],
    numbers: Sequence[float | None], task: str | None,
) -> None:  # fmt: skip
    """InputError where a label is no finite number and the others, or the task, say that it is."""
    finite = [n for n in numbers if n is not None and math.isfinite(n)]
    pairs = list(zip(texts, numbers, strict=True))
    real = 2 * sum("." in text and n is not None for text, n in pairs) > len(texts)
    numeric = task == REGRESSION or all(
        number is not None or text.lower() in _ABSENT for text, number in pairs
    )
    signs = {"+", "-"} <= set(texts)
    for row, (text, number) in zip(rows, pairs, strict=True):
        if finite and number is not None and not math.isfinite(number) and (numeric or real):
            raise InputError(
                f"{table.at(row)}: label '{text}' is not a finite number; correct it, or remove "
                "the line"
            )
        if number is None and finite and (numeric or real) and not signs:
            whose = "as the task needs" if task == REGRESSION else (
                "as all others are" if numeric else "as most are"
            )
            raise InputError(f"{table.at(row)}: label '{shown(text)}' is not a number, {whose}; "
                             "correct it, or remove the line")  # fmt: skip
        if task == REGRESSION and (number is None or not math.isfinite(number)):
            raise InputError(f"{table.at(row)}: label '{shown(text)}' is not a finite number, as "
                             f"{REGRESSION} needs; correct it, or search with --task "
                             f"{CLASSIFICATION}")  # fmt: skip


def _check_differ(table: RawTable, texts: Sequence[str]) -> None:
    names = set(texts)
    if names == {UNLABELLED}:
        raise InputError(f"{table.place}: every label is '-1', which says 'no label' in test sets; "
                         "give labelled examples")  # fmt: skip
    if len(names) == 1:
        raise InputError(f"{table.place}: every label is '{shown(texts[0])}'; a classifier needs "
                         "at least 2 classes")  # fmt: skip


def ordered(names: Counter[str]) -> tuple[str, ...]:
    """Names in their order: that of their numbers if all are whole ones."""
    try:
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    except ValueError:
        return tuple(sorted(names))


def _doubt(names: Sequence[str], counts: Counter[str]) -> str:
    """What may be wrong about a class called -1: many data sets mean by it that there is none."""
    others = [name for name in names if name != UNLABELLED]
    if UNLABELLED not in names or others != [str(i) for i in range(len(others))]:
        return ""
    return (f"-1 is taken for a class, with {many(counts[UNLABELLED])}; if it says 'no label', "
            "as in GLUE's test sets, give --unlabelled -1 to leave them out")  # fmt: skip
