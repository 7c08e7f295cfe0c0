"""Files in the form of CoNLL: sentences whose words have a label each, as entities have.

A line is a word and its label, with tabs or blanks between; columns between the first and the last
are something else's, as parts of speech, and are not used. An empty line ends a sentence. Lines of
-DOCSTART- are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from canao.artifact.reading import read_bytes
from canao.errors import InputError
from canao.train.reading.tables import RawTable, shown

# What the two columns of the file's table are called.
TOKENS, TAGS = "tokens", "tags"
_DOCUMENT = "-DOCSTART-"
_MAX_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Conll:
    """What a file holds.

    sentences   words and the label of each
    lines       in which each sentence begins, counted from 1
    notes       what of the file is not used, for people
    """

    sentences: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    lines: tuple[int, ...]
    notes: tuple[str, ...]


def read_conll(file: Path) -> Conll:
    """The sentences of a file; InputError names the file, the line and what to do."""
    data = read_bytes(file, limit=_MAX_BYTES, remedy="check the file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file}:{line}: not UTF-8; save the file as UTF-8") from None
    found = _read(file, text)
    if not found.sentences:
        raise InputError(f"{file}: no words; give a word and its label on each line")
    return found


def table_of(file: Path) -> RawTable:
    """The same as a table with a row for each sentence, whose columns are lists."""
    found = read_conll(file)
    return RawTable(str(file), (TOKENS, TAGS), found.sentences, found.lines, found.notes)


def _read(file: Path, text: str) -> Conll:
    sentences, rows, documents, width = list[Sequence[Sequence[str]]](), list[Sequence[str]](), 0, 0
    lines, begun = list[int](), 0
    for number, fields in _lines(text):
        if fields and fields[0] != _DOCUMENT:
            _check(file, number, fields, width)
            begun = begun if rows else number
            width = width or len(fields)
            rows.append(fields)
            continue
        documents += bool(fields)
        if rows:
            sentences.append(rows)
            lines.append(begun)
            rows = []
    if rows:
        sentences.append(rows)
        lines.append(begun)
    notes = [f"{width - 2} columns between word and label are not used"] if width > 2 else []
    notes += [f"{documents} lines of {_DOCUMENT} are left out"] if documents else []
    return Conll(
        tuple((tuple(r[0] for r in rows), tuple(r[-1] for r in rows)) for rows in sentences),
        tuple(lines), tuple(notes),
    )  # fmt: skip


def _check(file: Path, number: int, fields: Sequence[str], width: int) -> None:
    """InputError unless a line is like those before it, of which each has `width` fields."""
    if len(fields) < 2:
        raise InputError(
            f"{file}:{number}: '{shown(fields[0])}' has no label; give a word and its "
            "label, with a tab between"
        )
    if width and len(fields) != width:
        raise InputError(f"{file}:{number}: {len(fields)} columns, the lines before have "
                         f"{width}; correct the line")  # fmt: skip
    if not all((fields[0], fields[-1])):
        raise InputError(f"{file}:{number}: an empty word or label; correct the line")


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The number and the fields of each line; none of an empty one."""
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip():
            yield number, []
        elif "\t" in line:
            yield number, [field.strip() for field in line.split("\t")]
        else:
            yield number, line.split()
