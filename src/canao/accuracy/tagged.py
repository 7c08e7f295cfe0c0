"""Sentences whose words have labels, as entities have: files in the form of CoNLL.

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
from canao.train.tables import kind_of, listed, shown

EXTENSION = ".conll"
_DEV_NAMES = ("dev", "validation", "test")
_DOCUMENT = "-DOCSTART-"
_MAX_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words and the label of each; the text is the words with blanks between."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    pair: None = None

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def starts(self) -> list[int]:
        """Where each word begins in the text."""
        ends = [0]
        for word in self.words:
            ends.append(ends[-1] + len(word) + 1)
        return ends[:-1]


@dataclass(frozen=True, slots=True)
class TaggedText:
    """Sentences to compare with.

    source   the file
    told     lines that say what was read, for people
    """

    name: str
    dev: tuple[Sentence, ...]
    source: str
    told: tuple[str, ...] = ()

    @property
    def tags(self) -> tuple[str, ...]:
        """The labels that some word has, in the order of their names."""
        return tuple(sorted({tag for sentence in self.dev for tag in sentence.tags}))


def is_tagged(path: str | Path) -> bool:
    """Whether data are words with labels: a .conll file, or a directory with such and no table."""
    path = Path(path)
    if not path.is_dir():
        return path.name.lower().endswith(EXTENSION)
    return _found(path) is not None and not any(kind_of(file) for file in path.iterdir())


def read_tagged(path: str | Path) -> TaggedText:
    """The sentences of a file; of a directory those of dev.conll, validation.conll or test.conll.

    InputError names the file, the line and what to do.
    """
    given = Path(path)
    file = _found(given) if given.is_dir() else given
    if file is None:
        names = ", ".join(f"{name}{EXTENSION}" for name in _DEV_NAMES)
        raise InputError(f"{given}: none of {names}; add one of them, or give the file")
    data = read_bytes(file, limit=_MAX_BYTES, remedy="check the file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file}:{line}: not UTF-8; save the file as UTF-8") from None
    sentences, unused, documents = _read(file, text)
    if not sentences:
        raise InputError(f"{file}: no words; give a word and its label on each line")
    left = [f"{unused} columns between word and label are not used"] if unused else []
    left += [f"{documents} lines of {_DOCUMENT} are left out"] if documents else []
    words = sum(len(s.words) for s in sentences)
    found = TaggedText(given.stem, sentences, str(file.resolve()))
    told = (f"{file}: {len(sentences)} sentences of {words} words to compare with",
            f"labels: {listed(found.tags)}", *left)  # fmt: skip
    return TaggedText(found.name, sentences, found.source, told)


def _found(folder: Path) -> Path | None:
    files = (folder / f"{name}{EXTENSION}" for name in _DEV_NAMES)
    return next((file for file in files if file.is_file()), None)


def _read(file: Path, text: str) -> tuple[tuple[Sentence, ...], int, int]:
    """The sentences, the columns of a line that are not used, and the lines between documents."""
    sentences, rows, documents, width = list[Sentence](), list[Sequence[str]](), 0, 0
    for number, fields in _lines(text):
        if fields and fields[0] != _DOCUMENT:
            if len(fields) < 2:
                raise InputError(
                    f"{file}:{number}: '{shown(fields[0])}' has no label; give a word and its "
                    "label, with a tab between"
                )
            width = width or len(fields)
            if len(fields) != width:
                raise InputError(f"{file}:{number}: {len(fields)} columns, the lines before have "
                                 f"{width}; correct the line")  # fmt: skip
            if not all((fields[0], fields[-1])):
                raise InputError(f"{file}:{number}: an empty word or label; correct the line")
            rows.append(fields)
            continue
        documents += bool(fields)
        if rows:
            sentences.append(_sentence(rows))
            rows = []
    if rows:
        sentences.append(_sentence(rows))
    return tuple(sentences), max(width - 2, 0), documents


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The number and the fields of each line; none of an empty one."""
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip():
            yield number, []
        elif "\t" in line:
            yield number, [field.strip() for field in line.split("\t")]
        else:
            yield number, line.split()


def _sentence(rows: Sequence[Sequence[str]]) -> Sentence:
    return Sentence(tuple(row[0] for row in rows), tuple(row[-1] for row in rows))
