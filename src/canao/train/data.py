"""Labelled text for a task: from files, or by the name of a data set of the Hugging Face Hub.

The modules of reading/ know files (tables.py, conll.py), data sets by name (named.py), what columns
are for (columns.py) and what labels are (labels.py, label_sets.py, word_labels.py). Nothing of a
file is left out in silence: `TextData.told` says what everything was taken for.
"""

from __future__ import annotations

import math
import os
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canao.errors import InputError
from canao.train.reading.conll import table_of
from canao.train.reading.examples import NO_CLASS, Asked, Example, Label, Read, strings
from canao.train.reading.labels import many
from canao.train.reading.tables import (
    EXTENSIONS,
    RawTable,
    is_of_words,
    is_plain,
    kind_of,
    listed,
    read_table,
    table_of_lines,
)
from canao.train.task_names import CLASSIFICATION, REGRESSION, TASKS, VECTORS
from canao.train.tasks import task_named

if TYPE_CHECKING:
    from canao.train.tasks.task import Task

_DEV_NAMES = ("dev", "validation", "test")
_DEV_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class TextData:
    """The examples of a task.

    `labels[i]` is the name of class i; there are none for regression. `columns` are the columns
    that the text came from: ('sentence',), ('text',) or ('sentence1', 'sentence2'), for example.

    label_column   the column that the labels came from
    source         the file, directory or data set with its commit; '' if it was made otherwise
    told           lines that say what was read and how it was understood, for people
    kind           one of TASKS; '' for classes where there are labels, else for values
    """

    name: str
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    label_column: str = "label"
    source: str = ""
    told: tuple[str, ...] = ()
    kind: str = ""

    @property
    def task(self) -> Task:
        """What the task is to training."""
        return task_named(self.kind or (CLASSIFICATION if self.labels else REGRESSION))

    @property
    def regression(self) -> bool:
        return not (self.labels or self.kind)

    @property
    def no_label(self) -> Label:
        """The label of an example that has none: the teacher alone says what it is."""
        if self.kind:
            return None
        return math.nan if self.regression else NO_CLASS

    def strata(self) -> list[int | float]:
        """Of each training example, the class whose proportions stay when some are held out."""
        return self.task.strata([example.label for example in self.train])

    def content(self) -> dict[str, Any]:
        """What training depends on, in JSON form."""
        found = {
            "name": self.name,
            "train": [_facts(example) for example in self.train],
            "dev": [_facts(example) for example in self.dev],
            "labels": self.labels,
            "columns": self.columns,
        }
        return found | ({"task": self.kind} if self.kind else {})


def _facts(example: Example) -> dict[str, Any]:
    """An example in JSON form, as it was before there were examples with words of their own."""
    facts = asdict(example)
    if example.words is None:
        del facts["words"]
    return facts


def load_data(
    path: str | Path, task: str | None = None, seed: int = 0, *,
    text_columns: Sequence[str] = (), label_column: str | None = None,
    unlabelled: str | None = None, revision: str | None = None, split: bool = True,
    label_separator: str | None = None, doubtful: str | None = None,
) -> TextData:  # fmt: skip
    """The data in a file, in a directory with train.* and dev.* (validation.*, test.*), or called
    `path` on the Hugging Face Hub, as 'glue/mrpc'. What exists here comes first.

    Files are UTF-8, plain or compressed with gzip (.tsv.gz): TSV with a header, CSV with a header,
    or JSON Lines; or .conll with a word and its label on each line; or .txt with a text on each,
    where texts need no label. Fields of TSV are as they stand, as in GLUE, unless the whole file is
    quoted as CSV is. Columns are known by their names
    (reading/columns.py) or named by `text_columns`, one or two, and `label_column`; a column of
    text that would not be used is refused. Without a development file, a tenth of the training
    examples is held out, with the same proportions of classes; the same seed holds out the same
    examples.

    task         one of TASKS; None: what the labels are: of words or lists if they plainly are, a
                 regression if they plainly are real numbers, else classes
    unlabelled   what the label column has where there is no label: such examples are left out
    revision     of a data set by name: a branch, tag or commit
    split        without it, nothing is to be trained on: where there is no development file, all
                 examples are to compare with, and a development file may be alone
    label_separator   what stands between two labels of an example, where labels are text
    doubtful     one of TASKS, taken without `task` where each text has one label: such labels may
                 be names, numbers that are names, and values

    InputError names the file, the line and what to do.
    """
    if task is not None and task not in TASKS:
        raise InputError(f"task '{task}' is not one of {', '.join(TASKS)}")
    if label_separator == "":
        raise InputError("--label-separator is empty; give what stands between two labels")
    plain = VECTORS in (task, doubtful)
    name, source, train, dev, notes = _tables(path, revision, plain, split)
    asked = Asked(task, text_columns, label_column, unlabelled, label_separator)
    claimed = next((n for n in TASKS if task_named(n).claims(train, asked)), None)
    if task is None and claimed is None:
        asked = replace(asked, task=doubtful)
    kind = task or claimed or doubtful or CLASSIFICATION
    read = task_named(kind).read(train, dev, asked)
    examples, held = read.train, read.dev
    if held is not None and dev is not None:
        parts = f"{many(len(examples))} to train on, {len(held)} of {dev.place} to compare with"
    elif not split:
        examples, held = (), examples
        parts = f"{many(len(held))} to compare with"
    else:
        examples, held = _split(read, train.place, seed)
        parts = f"{many(len(examples))} to train on, {len(held)} held out of them to compare with"
    told = (f"{source}: {parts}", read.said, read.left, *notes, *read.notes,
            *_doubts(examples, held, read.names))  # fmt: skip
    return TextData(
        name, examples, held, read.names, read.columns, read.label, source,
        tuple(line for line in told if line), read.task,
    )  # fmt: skip


def is_local(path: str | Path) -> bool:
    """Whether data are in files here: whatever exists, and what can be no name of the Hub."""
    if isinstance(path, Path) or os.path.exists(path):
        return True
    parts = path.split("/")
    return not 1 <= len(parts) <= 3 or not all(parts) or parts[0] in (".", "..", "~") or bool(
        kind_of(Path(path)) or is_of_words(path) or is_plain(Path(path))
    )


def _tables(
    path: str | Path, revision: str | None, plain: bool, split: bool
) -> tuple[str, str, RawTable, RawTable | None, tuple[str, ...]]:
    """Name and source of the data, the training table, the development table if there is one, and
    notes of how they were found. `plain` files have one text a line. Without `split` the only table
    may be that of development, which is then the first of the two."""
    if not is_local(path):
        from canao.train.reading.named import load_named

        return load_named(str(path), revision, split)
    path = Path(path)
    if revision is not None:
        raise InputError(f"{path}: is read from files, which have no revision; leave out "
                         "--data-revision")  # fmt: skip
    train_path, dev_path = _files(path, plain, split)
    train = _table(train_path, plain)
    dev = _table(dev_path, plain) if dev_path else None
    name = path.name.removesuffix(".gz").rpartition(".")[0] or path.stem
    notes = (*train.notes, *(dev.notes if dev else ()))
    if os.path.isdir(path):
        name = path.stem or path.resolve().name
        notes += _others(path, {train_path, dev_path})
    return name, str(path.resolve()), train, dev, notes


def _table(path: Path, plain: bool) -> RawTable:
    if is_of_words(path):
        return table_of(path)
    return table_of_lines(path) if plain and is_plain(path) else read_table(path)


def _files(path: Path, plain: bool, split: bool) -> tuple[Path, Path | None]:
    """The training file and, if there is one, the development file."""
    if os.path.isdir(path):
        return _in_folder(path, plain, split)
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file or directory; give the task's data")
    return path, None


def _in_folder(folder: Path, plain: bool, split: bool) -> tuple[Path, Path | None]:
    train = _named(folder, "train", plain)
    found = (_named(folder, name, plain) for name in _DEV_NAMES)
    dev = next((file for file in found if file is not None), None)
    if train is not None:
        return train, dev
    if dev is not None and not split:
        return dev, None
    more = "" if split else f"{', '.join(f'{name}.tsv' for name in _DEV_NAMES)}, "
    raise InputError(f"{folder}: no {more}train.tsv, train.csv, train.jsonl or train.conll; add "
                     "one of them")  # fmt: skip


def _others(folder: Path, used: set[Path | None]) -> tuple[str, ...]:
    """A note of the tables in a directory that are not used."""
    tables = (p for p in folder.iterdir() if kind_of(p) or is_of_words(p))
    left = sorted(p.name for p in tables if p not in used)
    return (f"files that are not used: {listed(left)}",) if left else ()


def _named(folder: Path, stem: str, plain: bool) -> Path | None:
    found = sorted(p for p in folder.glob(f"{stem}.*") if p.exists() and not p.is_dir())
    ours = (kind_of, is_of_words, *([is_plain] if plain else []))  # tables come first
    usable = next((u for known in ours if (u := [p for p in found if known(p)])), found)
    if len(usable) > 1:
        names = " and ".join(p.name for p in usable)
        raise InputError(f"{folder}: both {names}; keep only one of them")
    return usable[0] if usable else None


def _doubts(
    train: Sequence[Example], dev: Sequence[Example], names: Sequence[str]
) -> tuple[str, ...]:
    """What is odd about examples, though it can be used."""
    empty = sum(not e.text.strip() or (e.pair is not None and not e.pair.strip())
                for e in (*train, *dev))  # fmt: skip
    seen = {(e.text, e.pair) for e in train}
    both = sum((e.text, e.pair) in seen for e in dev)
    counts = Counter(e.label for e in train) if names else Counter[Any]()
    alone = [name for i, name in enumerate(names) if counts[i] == 1]
    return (
        f"one example to train on of {listed(alone)}: too few to learn a class; add some, or leave "
        "it out" if alone else "",
        f"{many(empty)} with an empty text" if empty else "",
        f"{both} of {many(len(dev))} to compare with are among those to train on, too"
        if both else "",
    )  # fmt: skip


def _split(
    read: Read, place: str, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Training and held-out examples: a tenth is held out (see `hold_out`)."""
    examples, kind = read.train, read.task or (CLASSIFICATION if read.names else REGRESSION)
    count = max(1, round(_DEV_SHARE * len(examples)))
    strata = task_named(kind).strata([example.label for example in examples])
    held = set(hold_out(strata, count, seed))
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


__all__ = [
    "EXTENSIONS",
    "NO_CLASS",
    "TASKS",
    "Example",
    "Label",
    "TextData",
    "hold_out",
    "is_local",
    "load_data",
    "strings",
]
