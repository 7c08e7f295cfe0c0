"""Text without labels, which students learn to see as their teacher does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from canao.errors import InputError
from canao.train.data import Example, TextData, strings
from canao.train.reading.columns import texts_alone
from canao.train.reading.labels import many
from canao.train.reading.tables import EXTENSIONS, PLAIN, is_plain, kind_of, read_lines, read_table
from canao.train.reading.word_labels import sentences
from canao.train.task_names import VECTORS, WORDS


@dataclass(frozen=True)
class Unlabelled:
    """Examples without a label, and lines that say what was read and how it was understood."""

    examples: tuple[Example, ...] = ()
    told: tuple[str, ...] = ()


def read_unlabelled(path: str | Path, data: TextData) -> Unlabelled:
    """The texts in a file, for the task of `data`.

    A .txt file has one text a line. A table (.tsv, .csv, .jsonl) has the columns that the texts of
    `data` come from; its other columns, a label among them, are not used, which is told. Both may
    be compressed with gzip (.gz). Where words have labels, the words of a line stand between
    blanks, and a table has lists of them. InputError names the file, the line and what to do.
    """
    path, columns = Path(path), data.columns
    if kind_of(path):
        table = read_table(path)
        left = texts_alone(table, columns, data.label_column)
        texts = strings(table, columns) if data.kind != WORDS else [
            [" ".join(words) for words in sentences(table, columns[0])]
        ]
        notes = (*table.notes, left)
    elif is_plain(path):
        if len(columns) > 1 and data.kind != VECTORS:
            raise InputError(
                f"{path}: has one text a line, and the task's examples are pairs of texts; give a "
                f"table ({', '.join(EXTENSIONS)}) with {' and '.join(columns)}"
            )
        texts, notes = [list(read_lines(path))], ()
    else:
        raise InputError(
            f"{path}: extension '{path.suffix}' is not {PLAIN}, {', '.join(EXTENSIONS)}; give one "
            "text a line as .txt, or a table"
        )
    kept = [row for row in zip(*texts, strict=True) if all(text.strip() for text in row)]
    empty = len(texts[0]) - len(kept)
    if not kept:
        raise InputError(f"{path}: has no text; give some, or leave out --unlabelled-text")
    told = (
        f"{path}: {many(len(kept))} without a label, for the students' final training"
        + (f"; {many(empty)} with an empty text left out" if empty else ""),
        *notes,
    )
    pairs = ((row[0], row[1] if len(row) > 1 else None) for row in kept)
    return Unlabelled(
        tuple(Example(text, pair, data.no_label) for text, pair in pairs),
        tuple(line for line in told if line),
    )
