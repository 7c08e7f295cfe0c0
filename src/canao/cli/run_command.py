"""`canao run`: texts from arguments, a file or standard input; results as text or JSON lines."""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from canao.artifact.reading import MAX_BYTES
from canao.errors import InputError
from canao.inference.compiled_model import CompiledModel
from canao.inference.tasks import GENERATION, Prepared, Task, task_of

# Texts that run as one batch: enough to keep the threads busy, and few enough that the first
# results come soon.
_BATCH_PER_THREAD = 16
# What other texts than UTF-8 begin with; the longer marks first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)
_MOST = 64 << 20  # bytes of a line
_Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class InputText:
    """A text or a pair of texts, and for messages the place that it came from, or ""."""

    text: str
    pair: str | None
    place: str = ""


def read_texts(
    model: CompiledModel, texts: Sequence[str], second: str | None, file: Path | None
) -> Iterator[InputText]:
    """The texts to run, read as they are needed; "-" as the only argument is standard input.

    If the task takes pairs and `second` is not given, the second of two arguments is the second
    text of a pair.
    """
    pairs = task_of(model.artifact.manifest).pairs
    if file is not None and texts:
        raise InputError("texts are given as arguments and with --file; give one of the two")
    if file is not None or list(texts) == ["-"]:
        return _lines(file, second, split=bool(pairs) and second is None)
    if not texts:
        raise InputError("no text; give one, or --file with a text on each line")
    if pairs and second is None and len(texts) > 1:
        if len(texts) > 2:
            raise InputError(
                f"{len(texts)} texts, and this task takes a pair; give several with --file"
            )
        return iter([InputText(texts[0], texts[1])])
    several = len(texts) > 1
    return (InputText(t, second, f"text {i}" if several else "") for i, t in enumerate(texts, 1))


def _lines(file: Path | None, second: str | None, *, split: bool) -> Iterator[InputText]:
    """One text from each line; if the task takes pairs, a tab separates the two texts."""
    if file is None:
        yield from _texts_of("standard input", sys.stdin.buffer, second, split)
        return
    try:
        with open(file, "rb") as stream:
            yield from _texts_of(str(file), stream, second, split)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); name a text file") from None


def _texts_of(name: str, stream: BinaryIO, second: str | None, split: bool) -> Iterator[InputText]:
    number = 0
    for number, line in enumerate(_text_lines(name, stream), 1):
        text, tab, rest = line.partition("\t") if split else (line, "", "")
        yield InputText(text, rest if tab else second, f"{name}, line {number}")
    if not number:
        raise InputError(f"{name}: is empty; give a text on each line")


def _text_lines(name: str, stream: BinaryIO) -> Iterator[str]:
    """The lines of a text in UTF-8, or in what its byte order mark says, without that mark.

    A line ends at LF, CR or both, as in any text of Python. InputError for a line that is no text.
    """
    number = 0
    for raw in iter(lambda: stream.readline(_MOST), b""):
        if len(raw) == _MOST:
            raise InputError(f"{name}, line {number + 1}: has {_MOST} bytes or more; split it")
        if not number:
            encoding = next((e for mark, e in _MARKS if raw.startswith(mark)), None)
            if encoding is not None:
                yield from _marked(name, raw + stream.read(MAX_BYTES), encoding)
                return
            raw = raw.removeprefix(codecs.BOM_UTF8)
        for line in raw.rstrip(b"\r\n").split(b"\r"):
            number += 1
            yield _decoded(f"{name}, line {number}", line)


def _decoded(place: str, line: bytes) -> str:
    if b"\0" in line:
        raise InputError(f"{place}: holds a NUL byte, so it is not text; convert it to UTF-8 first")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{place}: is not UTF-8; convert the file first") from None


def _marked(name: str, data: bytes, encoding: str) -> Iterator[str]:
    """The lines of a text whose byte order mark says that it is not UTF-8."""
    if len(data) >= MAX_BYTES:
        raise InputError(f"{name}: {encoding} of over {MAX_BYTES} bytes; convert it to UTF-8 first")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise InputError(f"{name}: begins as {encoding} and is not; convert it to UTF-8") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines[:-1] if not lines[-1] else lines, 1):
        yield _decoded(f"{name}, line {number}", line.encode("utf-8", "surrogatepass"))


def run_texts(
    model: CompiledModel, items: Iterable[InputText], *, truncate: bool | None,
    options: Mapping[str, Any], as_json: bool, write: _Say, note: _Say,
) -> None:  # fmt: skip
    """Run the texts in batches and write the result of each; `note` is called for truncated texts.

    Generated text is written token by token.
    """

    def say(line: str) -> None:
        write(f"{line}\n")

    task = task_of(model.artifact.manifest)
    if task.name == GENERATION and not as_json:
        for item in items:
            ready = _prepare(model, item, truncate, options, note)
            for piece in chain([item.text], model.stream_prepared(ready), ["\n"]):
                write(piece)
        return
    stream = iter(items)
    heads = False
    while batch := list(islice(stream, _BATCH_PER_THREAD * model.threads)):
        heads = heads or len(batch) > 1
        prepared = [_prepare(model, item, truncate, options, note) for item in batch]
        for item, ready, result in zip(
            batch, prepared, model.predict_prepared(prepared), strict=True
        ):
            if as_json:
                say(_as_json(item, _json_form(task, item, ready, result)))
                continue
            is_vector = isinstance(result, np.ndarray)
            if heads and not is_vector:
                say(item.text if item.pair is None else f"{item.text} | {item.pair}")
            for line in task.lines(result, options):
                say(line)


def _prepare(
    model: CompiledModel, item: InputText, truncate: bool | None, options: Mapping[str, Any],
    note: _Say,
) -> Prepared:  # fmt: skip
    try:
        ready = model.prepare(item.text, item.pair, truncate=truncate, **options)
    except InputError as error:
        if not item.place:
            raise
        raise InputError(f"{item.place}: {error}") from None
    if ready.cut:
        place = f"{item.place}: " if item.place else ""
        note(f"{place}truncated from {ready.cut} tokens to {len(ready.windows[0].ids)}")
    return ready


def _as_json(item: InputText, form: Mapping[str, Any]) -> str:
    """A line of JSON, which has no NaN and no infinity."""
    try:
        return json.dumps(form, ensure_ascii=False, allow_nan=False)
    except ValueError:
        place = f"{item.place}: " if item.place else ""
        raise InputError(f"{place}the model computes NaN or infinity for this text; check its "
                         "weights") from None  # fmt: skip


def _json_form(
    task: Task, item: InputText, ready: Prepared, result: Any
) -> dict[str, Any]:
    """The JSON form of one result, with its text."""
    form: dict[str, Any] = {"text": item.text}
    if item.pair is not None:
        form["pair"] = item.pair
    if ready.cut:
        form["cut_from"] = ready.cut
    return form | task.form(ready, result)
