"""Labelled text for a task: from files, or by the name of a data set of the Hugging Face Hub.

tables.py reads files, named.py data sets by name, columns.py says what columns are for and
labels.py what labels are. Nothing of a file is left out in silence: `TextData.told` says what
everything was taken for.
"""

from __future__ import annotations

import math
import os
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from canao.errors import InputError
from canao.train.columns import Columns, understand
from canao.train.labels import TASKS, Labels, counted, many, read_dev_labels, read_labels
from canao.train.tables import EXTENSIONS, MISSING, RawTable, kind_of, listed, read_table

_DEV_NAMES = ("dev", "validation", "test")
_DEV_SHARE = 0.1
NO_CLASS = -100  # the label of an example without one; where labels are values, it is not a number


@dataclass(frozen=True, slots=True)
class Example:
    """One text, or pair of texts; `label` is a class index, or the value to predict."""

    text: str
    pair: str | None
    label: int | float


@dataclass(frozen=True, slots=True)
class TextData:
    """The examples of a task.

    `labels[i]` is the name of class i; there are none for regression. `columns` are the columns
    that the text came from: ('sentence',), ('text',) or ('sentence1', 'sentence2'), for example.

    label_column   the column that the labels came from
    source         the file, directory or data set with its commit; '' if it was made otherwise
    told           lines that say what was read and how it was understood, for people
    """

    name: str
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    label_column: str = "label"
    source: str = ""
    told: tuple[str, ...] = ()

    @property
    def regression(self) -> bool:
        return not self.labels

    @property
    def no_label(self) -> int | float:
        """The label of an example that has none: the teacher alone says what it is."""
        return math.nan if self.regression else NO_CLASS

    def content(self) -> dict[str, Any]:
        """What training depends on, in JSON form."""
        return {
            "name": self.name,
            "train": [asdict(example) for example in self.train],
            "dev": [asdict(example) for example in self.dev],
            "labels": self.labels,
            "columns": self.columns,
        }


def load_data(
    path: str | Path, task: str | None = None, seed: int = 0, *,
    text_columns: Sequence[str] = (), label_column: str | None = None,
    unlabelled: str | None = None, revision: str | None = None, split: bool = True,
) -> TextData:  # fmt: skip
    """The data in a file, in a directory with train.* and dev.* (validation.*, test.*), or called
    `path` on the Hugging Face Hub, as 'glue/mrpc'. What exists here comes first.

    Files are UTF-8, plain or compressed with gzip (.tsv.gz): TSV with a header, CSV with a header,
    or JSON Lines. Fields of TSV are as they stand, as in GLUE, unless the whole file is quoted as
    CSV is. Columns are known by their names (columns.py) or named by `text_columns`, one or two,
    and `label_column`; a column of text that would not be used is refused. Without a
    development file, a tenth of the training examples is held out, with the same proportions of
    classes; the same seed holds out the same examples.

    task         one of TASKS; None: a regression if labels plainly are real numbers, else classes
    unlabelled   what the label column has where there is no label: such examples are left out
    revision     of a data set by name: a branch, tag or commit
    split        without it, nothing is to be trained on: where there is no development file, all
                 examples are to compare with

    InputError names the file, the line and what to do.
    """
    if task is not None and task not in TASKS:
        raise InputError(f"task '{task}' is not one of {', '.join(TASKS)}")
    name, source, train, dev, notes = _tables(path, revision)
    columns = understand(train, text_columns, label_column)
    notes += _dev_notes(train, dev, columns, text_columns)
    texts = strings(train, columns.texts)
    labels = read_labels(train, columns.label, task, unlabelled)
    examples = _examples(texts, labels)
    notes += (labels.note,)
    if dev:
        texts = strings(dev, columns.texts)
        found = read_dev_labels(dev, columns.label, labels.names, unlabelled, train.place)
        held, notes = _examples(texts, found), (*notes, found.note)
        parts = f"{many(len(examples))} to train on, {len(held)} of {dev.place} to compare with"
    elif not split:
        examples, held = (), examples
        parts = f"{many(len(held))} to compare with"
    else:
        examples, held = _split(examples, train.place, seed)
        parts = f"{many(len(examples))} to train on, {len(held)} held out of them to compare with"
    told = (f"{source}: {parts}", f"{columns}, {counted(labels)}", columns.left, *notes,
            *_doubts(examples, held))  # fmt: skip
    return TextData(
        name, examples, held, labels.names, columns.texts, columns.label, source,
        tuple(line for line in told if line),
    )  # fmt: skip


def is_local(path: str | Path) -> bool:
    """Whether data are in files here: whatever exists, and what can be no name of the Hub."""
    if isinstance(path, Path) or os.path.exists(path):
        return True
    parts = path.split("/")
    return not 1 <= len(parts) <= 3 or not all(parts) or parts[0] in (".", "..", "~") or bool(
        kind_of(Path(path))
    )


def _tables(
    path: str | Path, revision: str | None
) -> tuple[str, str, RawTable, RawTable | None, tuple[str, ...]]:
    """Name and source of the data, the training table, the development table if there is one, and
    notes of how they were found."""
    if not is_local(path):
        from canao.train.named import load_named

        return load_named(str(path), revision)
    path = Path(path)
    if revision is not None:
        raise InputError(f"{path}: is read from files, which have no revision; leave out "
                         "--data-revision")  # fmt: skip
    train_path, dev_path = _files(path)
    train = read_table(train_path)
    dev = read_table(dev_path) if dev_path else None
    name = path.name.removesuffix(".gz").rpartition(".")[0] or path.stem
    notes = (*train.notes, *(dev.notes if dev else ()))
    if os.path.isdir(path):
        name = path.stem or path.resolve().name
        notes += _others(path, {train_path, dev_path})
    return name, str(path.resolve()), train, dev, notes


def _files(path: Path) -> tuple[Path, Path | None]:
    """The training file and, if there is one, the development file."""
    if os.path.isdir(path):
        return _in_folder(path)
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file or directory; give the task's data")
    return path, None


def _in_folder(folder: Path) -> tuple[Path, Path | None]:
    train = _named(folder, "train")
    if train is None:
        raise InputError(f"{folder}: no train.tsv, train.csv or train.jsonl; add one of them")
    for name in _DEV_NAMES:
        dev = _named(folder, name)
        if dev is not None:
            return train, dev
    return train, None


def _others(folder: Path, used: set[Path | None]) -> tuple[str, ...]:
    """A note of the tables in a directory that are not used."""
    left = sorted(p.name for p in folder.iterdir() if kind_of(p) and p not in used)
    return (f"files that are not used: {listed(left)}",) if left else ()


def _named(folder: Path, stem: str) -> Path | None:
    found = sorted(p for p in folder.glob(f"{stem}.*") if p.exists() and not p.is_dir())
    usable = [p for p in found if kind_of(p)] or found
    if len(usable) > 1:
        names = " and ".join(p.name for p in usable)
        raise InputError(f"{folder}: both {names}; keep only one of them")
    return usable[0] if usable else None


def _dev_notes(
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


def _examples(texts: Sequence[Sequence[str]], labels: Labels) -> tuple[Example, ...]:
    """The rows that have a label. texts  [columns][rows]"""
    index = {name: i for i, name in enumerate(labels.names)}
    pairs = texts[1] if len(texts) > 1 else [None] * len(texts[0])
    return tuple(
        Example(texts[0][row], pairs[row], index[label] if labels.names else float(label))
        for row, label in zip(labels.rows, labels.texts, strict=True)
    )


def _string(table: RawTable, row: int, name: str, value: object) -> str:
    if value is MISSING:
        raise InputError(f"{table.at(row)}: no '{name}'; add it to the line")
    if not isinstance(value, str):
        raise InputError(f"{table.at(row)}: '{name}' is not a string; write it in quotes")
    return value


def _doubts(train: Sequence[Example], dev: Sequence[Example]) -> tuple[str, ...]:
    """What is odd about examples, though it can be used."""
    empty = sum(not e.text.strip() or (e.pair is not None and not e.pair.strip())
                for e in (*train, *dev))  # fmt: skip
    seen = {(e.text, e.pair) for e in train}
    both = sum((e.text, e.pair) in seen for e in dev)
    return (
        f"{many(empty)} with an empty text" if empty else "",
        f"{both} of {many(len(dev))} to compare with are among those to train on, too"
        if both else "",
    )  # fmt: skip


def _split(
    examples: Sequence[Example], place: str, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Training and held-out examples: a tenth is held out (see `hold_out`)."""
    count = max(1, round(_DEV_SHARE * len(examples)))
    held = set(hold_out([example.label for example in examples], count, seed))
    if len(held) < count:
        raise InputError(f"{place}: too few examples a class to hold a tenth out; add a dev file")
    train = tuple(e for i, e in enumerate(examples) if i not in held)
    return train, tuple(examples[i] for i in sorted(held))


def hold_out(labels: Sequence[int | float], count: int, seed: int) -> list[int]:
    """Which `count` examples to hold out, in order: drawn by systematic sampling over the classes,
    or over the sorted values, so that proportions stay. Each class keeps at least one example for
    training; fewer than `count` where there are too few."""
    strata: dict[int | float, list[int]] = defaultdict(list)
    for i, label in enumerate(labels):
        strata[label].append(i)
    shuffle = random.Random(seed)
    eligible: list[int] = []
    for label in sorted(strata):
        shuffle.shuffle(strata[label])
        eligible += strata[label] if isinstance(label, float) else strata[label][1:]
    count = min(count, len(eligible))
    return sorted(eligible[(2 * i + 1) * len(eligible) // (2 * count)] for i in range(count))


__all__ = ["EXTENSIONS", "TASKS", "Example", "TextData", "is_local", "load_data"]
