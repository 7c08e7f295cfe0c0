"""`canao run`: texts from arguments, a file or standard input; results as text or JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from canao.errors import InputError
from canao.inference.compiled_model import CompiledModel
from canao.inference.tasks import GENERATION, Prediction, Prepared, task_of

# How many labels of a classification are printed without --top; JSON has all of them.
_TOP_PRINTED = 3
# Texts that run as one batch: enough to keep the threads busy, and few enough that the first
# results come soon.
_BATCH_PER_THREAD = 16
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
    for number, raw in enumerate(stream, 1):
        place = f"{name}, line {number}"
        try:
            line = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise InputError(f"{place}: is not UTF-8; convert the file first") from None
        text, tab, rest = line.partition("\t") if split else (line, "", "")
        yield InputText(text, rest if tab else second, place)
    if not number:
        raise InputError(f"{name}: is empty; give a text on each line")


def run_texts(
    model: CompiledModel, items: Iterable[InputText], *, truncate: bool | None,
    options: Mapping[str, Any], as_json: bool, write: _Say, note: _Say,
) -> None:  # fmt: skip
    """Run the texts in batches and write the result of each; `note` is called for truncated texts.

    Generated text is written token by token.
    """

    def say(line: str) -> None:
        write(f"{line}\n")

    if model.artifact.manifest.get("task") == GENERATION and not as_json:
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
                say(json.dumps(_json_form(item, ready, result), ensure_ascii=False))
                continue
            is_vector = isinstance(result, np.ndarray)
            if heads and not is_vector:
                say(item.text if item.pair is None else f"{item.text} | {item.pair}")
            for line in _printed_lines(result, options.get("top") or _TOP_PRINTED):
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


def _json_form(item: InputText, ready: Prepared, result: Any) -> dict[str, Any]:
    """The JSON form of one result, with its text."""
    form: dict[str, Any] = {"text": item.text}
    if item.pair is not None:
        form["pair"] = item.pair
    if ready.cut:
        form["cut_from"] = ready.cut
    if isinstance(result, str):
        return form | {"generated": result}
    if isinstance(result, Prediction):
        return form | result.to_dict()
    if isinstance(result, np.ndarray):
        if result.ndim == 1:
            return form | {"vector": _numbers(result)}
        return form | {"tokens": ready.windows[0].tokens, "vectors": _numbers(result)}
    if result and isinstance(result[0], list):
        return form | {"masks": [[f.to_dict() for f in mask] for mask in result]}
    name = "answers" if item.pair is not None else "entities"
    return form | {name: [r.to_dict() for r in result]}


def _numbers(array: np.ndarray) -> Any:
    """Nested lists of numbers with the fewest digits that read back as the same float32."""
    if array.ndim > 1:
        return [_numbers(row) for row in array]
    return [float(str(x)) for x in array]


def _printed_lines(result: Any, top: int) -> Iterator[str]:
    if isinstance(result, np.ndarray):
        yield json.dumps(_numbers(result))
    elif isinstance(result, Prediction):
        for label, value in result.scores[:top]:
            yield f"{value:8.4f}  {label}"
    elif not result:
        yield "          nothing found"
    elif isinstance(result[0], list):
        for i, mask in enumerate(result, 1):
            if len(result) > 1:
                yield f"mask {i}"
            for f in mask:
                yield f"{f.score:8.4f}  {f.token}"
    else:
        for found in result:
            label = f"{found.label}  " if hasattr(found, "label") else ""
            yield f"{found.score:8.4f}  {label}{found.start}-{found.end}  {found.text}"
