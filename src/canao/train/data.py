"""Labelled text for a task, read from TSV, CSV or JSON Lines files."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from canao.errors import InputError

TASKS = ("text-classification", "text-regression")  # the first by default
_EXTENSIONS = (".tsv", ".csv", ".jsonl")
_DEV_NAMES = ("dev", "validation", "test")
_DEV_SHARE = 0.1


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
    that the text came from: ('sentence',), ('text',) or ('sentence1', 'sentence2').
    """

    name: str
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    labels: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def regression(self) -> bool:
        return not self.labels


@dataclass(frozen=True, slots=True)
class _Row:
    """An example whose label is still text, from line `line` of its file."""

    line: int
    text: str
    pair: str | None
    label: str


@dataclass(frozen=True, slots=True)
class _Table:
    path: Path
    columns: tuple[str, ...]
    rows: tuple[_Row, ...]


def load_data(path: str | Path, task: str = TASKS[0], seed: int = 0) -> TextData:
    """The data in a file, or in a directory with train.* and dev.* (validation.*, test.*).

    Files are UTF-8: TSV with a header and no quoting (as GLUE has it), CSV with a header and
    usual quoting, or JSON Lines. Columns are `sentence` (or `text`), or `sentence1` and
    `sentence2`, and `label`; others are ignored. Without a development file, a tenth of the
    training examples is held out, with the same proportions of classes; the same seed holds out
    the same examples.

    Labels are values to predict if the task is 'text-regression', or if all of them are numbers and
    at least one is written with a decimal point. Otherwise they are class names; classes are
    ordered by number if all names are whole numbers, else by name. InputError names the file, the
    line and what to do.
    """
    if task not in TASKS:
        raise InputError(f"task '{task}' is not one of {', '.join(TASKS)}")
    path = Path(path)
    train_path, dev_path = _files(path)
    train = _read(train_path)
    dev = _read(dev_path) if dev_path else None
    if dev and dev.columns != train.columns:
        raise InputError(
            f"{dev.path}: text in {' and '.join(dev.columns)}, but {train.path.name} has it in "
            f"{' and '.join(train.columns)}; use the same columns in both files"
        )
    if len(train.rows) < 2:
        raise InputError(f"{train.path}: {len(train.rows)} example; give at least 2")
    if task == "text-regression" or _all_numbers(train):
        labels: tuple[str, ...] = ()
        if len({row.label for row in train.rows}) == 1:
            only = train.rows[0].label
            raise InputError(f"{train.path}: every label is {only}; give values that differ")
    else:
        labels = _class_names(train)
    examples = _examples(train, labels)
    if dev:
        held = _examples(dev, labels)
    else:
        examples, held = _split(examples, train.path, seed)
    return TextData(path.stem or path.resolve().name, examples, held, labels, train.columns)


def _files(path: Path) -> tuple[Path, Path | None]:
    """The training file and, if there is one, the development file."""
    if path.is_file():
        return path, None
    if not path.is_dir():
        raise InputError(f"{path}: no such file or directory; give the task's data")
    train = _named(path, "train")
    if train is None:
        raise InputError(f"{path}: no train.tsv, train.csv or train.jsonl; add one of them")
    for name in _DEV_NAMES:
        dev = _named(path, name)
        if dev is not None:
            return train, dev
    return train, None


def _named(folder: Path, stem: str) -> Path | None:
    found = sorted(p for p in folder.glob(f"{stem}.*") if p.is_file())
    usable = [p for p in found if p.suffix in _EXTENSIONS] or found
    if len(usable) > 1:
        names = " and ".join(p.name for p in usable)
        raise InputError(f"{folder}: both {names}; keep only one of them")
    return usable[0] if usable else None


def _read(path: Path) -> _Table:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: not UTF-8; convert it, as with iconv -t UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from None
    if path.suffix not in _EXTENSIONS:
        raise InputError(f"{path}: extension '{path.suffix}' is not {', '.join(_EXTENSIONS)}")
    if not text.strip():
        raise InputError(f"{path}: empty; give a header and labelled examples")
    if path.suffix == ".jsonl":
        return _from_records(path, _json_lines(path, text))
    return _from_fields(path, _tsv(text) if path.suffix == ".tsv" else _csv(path, text))


def _tsv(text: str) -> Iterator[tuple[int, list[str]]]:
    # csv.QUOTE_NONE would do the same, but the csv module limits the length of a field.
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if line.strip():
            yield number, line.split("\t")


def _csv(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise InputError(
            f"{path}:{reader.line_num}: not valid CSV ({error}); correct the quoting"
        ) from None


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{number}: not JSON ({error}); correct the line") from None
        if not isinstance(record, dict):
            raise InputError(f"{path}:{number}: not a JSON object; write one object a line")
        yield number, record


def _from_fields(path: Path, lines: Iterator[tuple[int, list[str]]]) -> _Table:
    _, header = next(lines)
    header = [name.strip() for name in header]
    columns = _text_columns(path, header)
    where = [header.index(name) for name in columns]
    label = header.index("label")
    rows = []
    for number, fields in lines:
        if len(fields) != len(header):
            raise InputError(
                f"{path}:{number}: {len(fields)} fields, the header has {len(header)}; "
                "correct the line"
            )
        texts = [fields[i] for i in where]
        rows.append(_row(path, number, texts, fields[label]))
    if not rows:
        raise InputError(f"{path}: a header and no examples; add labelled lines")
    return _Table(path, columns, tuple(rows))


def _from_records(path: Path, lines: Iterator[tuple[int, dict[str, object]]]) -> _Table:
    columns: tuple[str, ...] = ()
    rows = []
    for number, record in lines:
        columns = columns or _text_columns(path, list(record))
        texts = []
        for name in (*columns, "label"):
            if name not in record:
                raise InputError(f"{path}:{number}: no '{name}'; add it to the line")
            if name != "label":
                texts.append(_string(path, number, name, record[name]))
        rows.append(_row(path, number, texts, _label_text(path, number, record["label"])))
    return _Table(path, columns, tuple(rows))


def _text_columns(path: Path, header: Sequence[str]) -> tuple[str, ...]:
    if len(set(header)) != len(header):
        raise InputError(f"{path}:1: a column name stands twice; rename one")
    if "label" not in header:
        raise InputError(f"{path}: no column 'label' among {', '.join(header)}; name it 'label'")
    if {"sentence1", "sentence2"} <= set(header):
        return ("sentence1", "sentence2")
    for name in ("sentence", "text"):
        if name in header:
            return (name,)
    raise InputError(
        f"{path}: no text column among {', '.join(header)}; name it 'sentence', or for pairs "
        "'sentence1' and 'sentence2'"
    )


def _string(path: Path, line: int, name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"{path}:{line}: '{name}' is not a string; write it in quotes")
    return value


def _label_text(path: Path, line: int, value: object) -> str:
    if isinstance(value, (str, bool, int, float)):
        return value if isinstance(value, str) else json.dumps(value)
    raise InputError(f"{path}:{line}: label is neither a string nor a number; give one of them")


def _row(path: Path, line: int, texts: Sequence[str], label: str) -> _Row:
    label = label.strip()
    if not label:
        raise InputError(f"{path}:{line}: empty label in column 'label'; fill it in")
    return _Row(line, texts[0], texts[1] if len(texts) > 1 else None, label)


def _all_numbers(table: _Table) -> bool:
    """Whether the labels are values to predict, rather than class names."""
    decimals = [r for r in table.rows if "." in r.label and _number(r.label) is not None]
    if not decimals:
        return False
    odd = next((r for r in table.rows if _number(r.label) is None), None)
    # A file of mostly decimals is a regression with a typing error, not thousands of classes.
    if odd is not None and 2 * len(decimals) > len(table.rows):
        raise InputError(
            f"{table.path}:{odd.line}: label '{odd.label}' is not a number, as most are; correct it"
        )
    return odd is None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _class_names(table: _Table) -> tuple[str, ...]:
    names = {row.label for row in table.rows}
    numbers = {name: _number(name) for name in names}
    if all(value is not None for value in numbers.values()):
        for row in table.rows:
            _finite(table.path, row)
    if len(names) == 1:
        raise InputError(
            f"{table.path}: every label is '{names.pop()}'; a classifier needs at least 2 classes"
        )
    try:
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    except ValueError:
        return tuple(sorted(names))


def _examples(table: _Table, labels: Sequence[str]) -> tuple[Example, ...]:
    index = {name: i for i, name in enumerate(labels)}
    examples = []
    for row in table.rows:
        label: int | float
        if not labels:
            label = _finite(table.path, row)
        elif row.label in index:
            label = index[row.label]
        else:
            raise InputError(
                f"{table.path}:{row.line}: label '{row.label}' is not among the training "
                f"file's {len(labels)}; correct it, or add training examples of it"
            )
        examples.append(Example(row.text, row.pair, label))
    return tuple(examples)


def _finite(path: Path, row: _Row) -> float:
    value = _number(row.label)
    if value is None or not math.isfinite(value):
        raise InputError(f"{path}:{row.line}: label '{row.label}' is not a finite number; fix it")
    return value


def _split(
    examples: Sequence[Example], path: Path, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Training and held-out examples: a tenth is held out by systematic sampling over the classes,
    and each class keeps at least one example for training."""
    strata: dict[int | float, list[int]] = defaultdict(list)
    for i, example in enumerate(examples):
        strata[example.label].append(i)
    shuffle = random.Random(seed)
    eligible: list[int] = []
    regression = isinstance(examples[0].label, float)
    for label in sorted(strata):
        shuffle.shuffle(strata[label])
        eligible += strata[label] if regression else strata[label][1:]
    count = max(1, round(_DEV_SHARE * len(examples)))
    if len(eligible) < count:
        raise InputError(f"{path}: too few examples a class to hold a tenth out; add a dev file")
    held = {eligible[(2 * i + 1) * len(eligible) // (2 * count)] for i in range(count)}
    train = tuple(e for i, e in enumerate(examples) if i not in held)
    return train, tuple(examples[i] for i in sorted(held))
