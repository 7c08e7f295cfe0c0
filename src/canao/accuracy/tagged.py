"""Sentences whose words have labels, as entities have, to compare a library with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from canao.errors import InputError
from canao.train.data import Example, TextData
from canao.train.reading.conll import read_conll
from canao.train.reading.examples import classes_in
from canao.train.reading.tables import OF_WORDS, is_of_words, kind_of, listed

_DEV_NAMES = ("dev", "validation", "test")


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
        return is_of_words(path)
    return _found(path) is not None and not any(kind_of(file) for file in path.iterdir())


def read_tagged(path: str | Path) -> TaggedText:
    """The sentences of a file; of a directory those of dev.conll, validation.conll or test.conll.

    InputError names the file, the line and what to do.
    """
    given = Path(path)
    file = _found(given) if given.is_dir() else given
    if file is None:
        names = ", ".join(f"{name}{OF_WORDS}" for name in _DEV_NAMES)
        raise InputError(f"{given}: none of {names}; add one of them, or give the file")
    held = read_conll(file)
    sentences = tuple(Sentence(words, tags) for words, tags in held.sentences)
    words = sum(len(s.words) for s in sentences)
    found = TaggedText(given.stem, sentences, str(file.resolve()))
    told = (f"{file}: {len(sentences)} sentences of {words} words to compare with",
            f"labels: {listed(found.tags)}", *held.notes)  # fmt: skip
    return TaggedText(found.name, sentences, found.source, told)


def tagged(data: TextData) -> TaggedText:
    """The sentences to compare with of a task whose words have labels."""
    return TaggedText(data.name, tuple(_sentence(e, data.labels) for e in data.dev), data.source)


def _sentence(example: Example, labels: Sequence[str]) -> Sentence:
    tags = classes_in(example.label)
    assert example.words is not None and tags is not None
    return Sentence(example.words, tuple(labels[i] for i in tags))


def _found(folder: Path) -> Path | None:
    files = (folder / f"{name}{OF_WORDS}" for name in _DEV_NAMES)
    return next((file for file in files if file.is_file()), None)
