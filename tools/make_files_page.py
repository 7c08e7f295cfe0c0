"""Write the tables of docs/files.md: every file and entry that is read, and what becomes of it.

    python tools/make_files_page.py

The text between the markers is made from the tables of `canao.model.inventory.tables`; the text
around them is written by hand. A test compares the page with the tables.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from canao.artifact.reading import shown
from canao.model.inventory import tables
from canao.model.inventory.table import Entry, Table
from canao.model.inventory.tables.files import FILES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "files.md"
BEGIN, END = "<!-- tables: begin -->\n", "<!-- tables: end -->\n"
_KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false",
          dict: "object", list: "list", object: "anything", type(None): "null"}  # fmt: skip


def page(text: str) -> str:
    """The page with its tables made anew; ValueError if it has no markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after and not text.endswith(END):
        raise ValueError(f"{PAGE}: no markers {BEGIN.strip()} and {END.strip()}")
    return before + BEGIN + "\n".join(_sections()) + "\n" + END + after


def _sections() -> Iterator[str]:
    for info in sorted(pkgutil.iter_modules(tables.__path__), key=lambda i: i.name):
        module = importlib.import_module(f"{tables.__name__}.{info.name}")
        named = {_title(k): v for k, v in vars(module).items() if isinstance(v, Table)}
        found: dict[str, Table] = getattr(module, "TABLES", named)
        if not found:
            continue
        yield f"### {_first_sentence(module)}\n"
        for name, table in found.items():
            if len(found) > 1:
                yield f"**{name}**\n"
            yield "| entry | value | what becomes of it |\n| --- | --- | --- |"
            rows = {**table.entries, **{f"/{p}/": e for p, e in table.patterns.items()}}
            yield "\n".join(_row(key, entry) for key, entry in rows.items()) + "\n"
    yield "### Files by name\n"
    yield "The first row that matches decides; a file that matches none is refused by name.\n"
    yield "| name | what becomes of it |\n| --- | --- |"
    yield "\n".join(f"| `{name}` | {_fate(entry)} |" for name, entry in FILES) + "\n"


def _first_sentence(module: types.ModuleType) -> str:
    text = " ".join((module.__doc__ or module.__name__).split())
    return re.split(r"[.:] ", text, maxsplit=1)[0].rstrip(".")


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _row(name: str, entry: Entry) -> str:
    return f"| {_code(name)} | {_value(entry)} | {_fate(entry)} |"


def _value(entry: Entry) -> str:
    if entry.only is not None:
        return ", ".join(_code(shown(value)) for value in entry.only)
    return _kind(entry.kind)


def _kind(kind: Any) -> str:
    if kind is Any:
        return "any"
    origin = get_origin(kind)
    if origin is typing.Literal:
        return ", ".join(_code(shown(v)) for v in get_args(kind))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(k) for k in get_args(kind)))
    if origin is typing.Annotated:
        return _kind(get_args(kind)[0])
    if origin in (list, dict):
        inner = [_kind(k) for k in get_args(kind)]
        return f"list of {inner[0]}" if origin is list else f"object of {inner[-1]}"
    return _KINDS.get(kind, getattr(kind, "__name__", str(kind)))


def _fate(entry: Entry) -> str:
    text = entry.does.replace("|", "\\|")
    if entry.only is not None and entry.remedy:
        text += f"; anything else is refused: {entry.remedy}".replace("|", "\\|")
    return f"{entry.status}: {text}"


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
