"""Labelled text as it stands in a file: TSV, CSV or JSON Lines, plain or compressed with gzip.

What a column means is not decided here: columns.py does that.
"""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canao.artifact.reading import parse_json, read_bytes
from canao.errors import InputError

EXTENSIONS = (".tsv", ".csv", ".jsonl")
PLAIN = ".txt"  # one text a line
OF_WORDS = ".conll"  # a word and its label a line
_GZIP = ".gz"
_LISTED = ", ".join(EXTENSIONS)
# Examples are held in memory, and take some times as much there.
MAX_BYTES = 1 << 29
# Text compresses to a third or a fifth. What grows more than this, and is large, is no text.
_RATIO, _LARGE = 100, 1 << 26
_MAGIC = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz",
          b"\x28\xb5\x2f\xfd": "zstd", b"PAR1": "Parquet", b"ARROW1": "Arrow",
          b"SQLite format 3": "SQLite", b"%PDF": "PDF", b"\xd0\xcf\x11\xe0": "Excel"}  # fmt: skip
_WIDE = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16",
         b"\xfe\xff": "UTF-16"}  # fmt: skip
_SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "vertical bars"}
# A field of a file that is quoted as CSV is, and what ends it.
_FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^"\t\r\n]*))(\t|\r?\n|\Z)')


class Missing:
    """Where an object of JSON Lines lacks an entry that others have."""

    def __repr__(self) -> str:
        return "missing"


MISSING = Missing()


@dataclass(frozen=True, slots=True)
class RawTable:
    """A table as it was read. Fields of TSV and CSV are strings; those of JSON any value.

    place     how messages name the file, or the split of a data set
    columns   their names, as the header has them; only '' may stand twice
    rows      [rows][columns]
    lines     of each row, counted from 1
    notes     what was understood of the file beyond its extension, for the user
    classes   by column: the names of its values, where the data say so
    """

    place: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    lines: tuple[int, ...]
    notes: tuple[str, ...] = ()
    classes: dict[str, tuple[str, ...]] | None = None

    def at(self, row: int) -> str:
        """Where row `row` stands, for messages."""
        return f"{self.place}:{self.lines[row]}"

    def column(self, name: str) -> list[Any]:
        """The values of a column."""
        where = self.columns.index(name)
        return [row[where] for row in self.rows]


def kind_of(path: Path) -> str:
    """The extension that says how a file is read, '.tsv' of 'a.tsv.gz'; '' if it is not ours."""
    name = path.name.lower().removesuffix(_GZIP)
    return next((e for e in EXTENSIONS if name.endswith(e)), "")


def read_table(path: Path) -> RawTable:
    """The table in a file; InputError names the file, the line and the remedy."""
    kind = kind_of(path)
    data = read_bytes(path, limit=MAX_BYTES, remedy="check the file")
    if not kind:
        raise InputError(f"{path}: extension '{_extension(path)}' is not {_LISTED}{_advice(path)}")
    if path.name.lower().endswith(_GZIP):
        data = _decompressed(path, data)
    text = _text(path, data)
    if not text.strip():
        raise InputError(f"{path}: empty; give a header and labelled examples")
    if kind == ".jsonl":
        return _from_records(path, _json_lines(path, text))
    if kind == ".csv":
        return _from_fields(path, _csv(path, text), ",")
    if '"' in text and _is_quoted(path, text):
        note = "fields in quotes are read as CSV has them"
        return _from_fields(path, _csv(path, text, "\t"), "\t", (note,))
    return _from_fields(path, _tsv(text), "\t")


def is_plain(path: Path) -> bool:
    """Whether a file has one text a line, by its name."""
    return path.name.lower().removesuffix(_GZIP).endswith(PLAIN)


def is_of_words(place: str | Path) -> bool:
    """Whether a file has a word and its label on each line, by its name."""
    return str(place).lower().endswith(OF_WORDS)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, plain or compressed with gzip; empty ones are nothing. InputError
    as for `read_table`."""
    data = read_bytes(path, limit=MAX_BYTES, remedy="check the file")
    if path.name.lower().endswith(_GZIP):
        data = _decompressed(path, data)
    lines = (line.rstrip("\r") for line in _text(path, data).split("\n"))
    return [line for line in lines if line.strip()]


def table_of_lines(path: Path) -> RawTable:
    """The lines of a text file as a table with one column, 'text'."""
    lines = tuple((line,) for line in read_lines(path))
    if not lines:
        raise InputError(f"{path}: has no text; give one text a line")
    return RawTable(str(path), ("text",), lines, tuple(range(1, len(lines) + 1)))


def shown(text: str, most: int = 40) -> str:
    """Text of a file as it may stand in a message: on one line, and not much of it."""
    line = "".join(c if c.isprintable() else " " for c in text[: most + 1])
    return line if len(text) <= most else f"{line[: most - 3]}..."


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names as they may stand in a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more


def _extension(path: Path) -> str:
    return "".join(path.suffixes[-2:]) if path.name.endswith(_GZIP) else path.suffix


def _advice(path: Path) -> str:
    if path.suffix == ".json":
        return "; write one JSON object a line, and name the file .jsonl"
    return "; save it as one of them, as UTF-8" if path.suffix in (".xlsx", ".xls", ".ods") else (
        "; convert the file, or rename it if it is one of them"
    )


def _decompressed(path: Path, data: bytes) -> bytes:
    """What a gzip file holds: of all its members, and not more than MAX_BYTES."""
    parts: list[bytes] = []
    size, rest = 0, data
    try:
        while rest.strip(b"\0"):  # tar and tape writers pad with nulls
            member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            while rest and not member.eof:
                parts.append(member.decompress(rest, 1 << 22))
                size, rest = size + len(parts[-1]), member.unconsumed_tail
                if size > MAX_BYTES or size > max(_LARGE, _RATIO * len(data)):
                    raise InputError(
                        f"{path}: {len(data)} bytes that hold more than {size - 1}; give a file "
                        f"of text, of {MAX_BYTES} bytes at most when unpacked"
                    )
            if not member.eof:
                raise InputError(f"{path}: ends in the middle of its data; copy it again")
            rest = member.unused_data
    except zlib.error as error:
        raise InputError(f"{path}: is not a whole gzip file ({error}); copy it again") from None
    return b"".join(parts)


def _text(path: Path, data: bytes) -> str:
    """The text of a file; InputError for another encoding than UTF-8, and for what is no text."""
    for start, name in _MAGIC.items():
        if data.startswith(start):
            as_gzip = f"name it {path.name}.gz, or unpack it" if name == "gzip" else (
                f"give its text as {_LISTED}"
            )
            raise InputError(f"{path}: holds {name} data; {as_gzip}")
    wide = next((name for start, name in _WIDE.items() if data.startswith(start)), None)
    if wide is None and b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise InputError(f"{path}:{line}: has a null character, as UTF-16 text has; convert it, as "
                         "with iconv -f UTF-16LE -t UTF-8")  # fmt: skip
    if wide is not None:
        raise InputError(f"{path}: is {wide}; convert it, as with iconv -f {wide} -t UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: not UTF-8; convert it, as with iconv -t UTF-8") from None
    # Old programs end lines with a carriage return alone.
    return text if "\n" in text else text.replace("\r", "\n")


def _tsv(text: str) -> Iterator[tuple[int, list[str]]]:
    # csv.QUOTE_NONE would do the same, but takes a carriage return in a text for the end of a line.
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if line.strip():
            yield number, line.split("\t")


def _csv(path: Path, text: str, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    with _long_fields(len(text)):
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
        try:
            for fields in reader:
                if any(field.strip() for field in fields):
                    yield reader.line_num, fields
        except csv.Error as error:
            raise InputError(
                f"{path}:{reader.line_num}: not valid CSV ({error}); correct the quoting"
            ) from None


@contextmanager
def _long_fields(most: int) -> Iterator[None]:
    """Let fields be as long as the file, inside the block: the csv module ends at 128 kB."""
    before = csv.field_size_limit(max(most, 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _is_quoted(path: Path, text: str) -> bool:
    """Whether a TSV file's fields are quoted as CSV's are, as pandas and spreadsheets write them.

    GLUE's files are not: in them a quote is part of the text, wherever it stands. A file is quoted
    if all of it can be read so, and either its lines have no like number of fields otherwise, or
    some field holds a doubled quote. InputError where both readings make sense: quotes around
    whole fields are text in one of them, and nothing in the other.
    """
    cells = text.partition("\n")[0].rstrip("\r").split("\t")
    if all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells):
        raise InputError(f'{path}:1: every name of the header is in quotes ("); write fields '
                         "without quotes, or the file as .csv, with commas")  # fmt: skip
    quoted: list[re.Match[str]] = []
    end, comma = 0, False
    for match in _FIELD.finditer(text):
        if match.start() != end:
            return False
        end = match.end()
        if match[1] is not None:
            quoted.append(match)
        comma = comma or "," in (match[2] or "")
    if end != len(text):
        return False
    if any(line.count("\t") != len(cells) - 1 for line in text.split("\n") if line.strip()):
        return True
    # Two lone quotes in different lines look like one field that spans them.
    if any("\n" in match[1] for match in quoted):
        return False
    if any('""' in match[1] for match in quoted):
        return True
    # Spreadsheets quote every field with a comma, and no other.
    if quoted and not comma and all("," in match[1] for match in quoted):
        line = text.count("\n", 0, quoted[0].start()) + 1
        raise InputError(f"{path}:{line}: quotes around a whole field may be text or quoting here; "
                         "write the file as .csv or .jsonl, which say which")  # fmt: skip
    return False


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        record = parse_json(line, place, Any, remedy="write one JSON object a line")
        if not isinstance(record, dict):
            raise InputError(f"{place}: not a JSON object; write one object a line")
        yield number, record


def _from_records(path: Path, records: Iterable[tuple[int, dict[str, Any]]]) -> RawTable:
    held = list(records)
    names = tuple(dict.fromkeys(name.strip() for _, record in held for name in record))
    rows = []
    for number, record in held:
        row = {name.strip(): value for name, value in record.items()}
        if len(row) < len(record):
            raise InputError(f"{path}:{number}: a name stands twice; rename one")
        rows.append(tuple(row.get(name, MISSING) for name in names))
    return RawTable(str(path), names, tuple(rows), tuple(number for number, _ in held))


def _from_fields(
    path: Path, lines: Iterator[tuple[int, list[str]]], delimiter: str, notes: tuple[str, ...] = ()
) -> RawTable:
    start, header = next(lines)
    header = [name.strip() for name in header]
    _check_header(path, start, header, delimiter)
    rows, numbers = [], []
    for number, fields in lines:
        rows.append(tuple(_fitted(path, number, fields, header)))
        numbers.append(number)
    if not rows:
        raise InputError(f"{path}: a header and no examples; add labelled lines")
    return RawTable(str(path), tuple(header), tuple(rows), tuple(numbers), notes)


def _check_header(path: Path, line: int, header: Sequence[str], delimiter: str) -> None:
    if header[0].lower().startswith("sep=") and not any(header[1:]):
        raise InputError(f"{path}:{line}: '{header[0]}' is a spreadsheet's note, not the header "
                         "with 'label'; remove the line")  # fmt: skip
    if len(header) == 1:
        for mark, name in _SEPARATORS.items():
            if mark != delimiter and mark in header[0]:
                remedy = {"\t": "name the file .tsv", ",": "name the file .csv"}.get(
                    mark, f"separate them with {_SEPARATORS[delimiter]}"
                )
                raise InputError(f"{path}:{line}: fields are separated by {name}, not "
                                 f"{_SEPARATORS[delimiter]}; {remedy}")  # fmt: skip
    named = [name for name in header if name]
    if len(set(named)) != len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise InputError(f"{path}:{line}: a column name stands twice, '{shown(twice)}'; rename one")


def _fitted(path: Path, line: int, fields: list[str], header: Sequence[str]) -> list[str]:
    """The fields of a line, as many as the header has: only empty ones come and go at the end."""
    extra, lacking = fields[len(header) :], header[len(fields) :]
    if any(field.strip() for field in extra) or any(lacking):
        raise InputError(f"{path}:{line}: {len(fields)} fields, the header has {len(header)}; "
                         "correct the line")  # fmt: skip
    return [*fields[: len(header)], *("" for _ in lacking)]
