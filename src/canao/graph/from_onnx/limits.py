"""What an ONNX file may grow to: counted in its bytes, before they are parsed, and in its
functions, before they are written out where they are called."""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from canao.defaults import Limits
from canao.errors import InputError

# Functions that call functions: the inliner of the onnx package goes down as deep as they do.
_DEEPEST = 64
# Parts of a file, which are fields of its messages, for each node that there may be. A part takes
# some hundred bytes once it is parsed, be it two bytes in the file.
_PARTS = 100
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_Key = tuple[str, str, str]


def require_small(path: Path, limits: Limits) -> None:
    """InputError if the file is larger than may be loaded, or has more parts than a model of as
    many nodes as allowed."""
    size = path.stat().st_size
    if size > limits.memory:
        raise InputError(
            f"{path}: has {size / 1e9:.1f} GB, more than {limits.memory / 1e9:.1f} GB; give a "
            "larger --max-memory if that is meant"
        )
    if not size:
        return
    most = limits.nodes * _PARTS
    with open(path, "rb") as stream:
        if not os.fstat(stream.fileno()).st_size:
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if _count(data, most) > most:
                raise InputError(
                    f"{path}: has more parts than a model of {limits.nodes} operators; give a "
                    "larger --max-nodes if that is meant"
                )


def _count(data: Any, most: int) -> int:
    """Fields of all messages in a file of ONNX, until there are more than `most`. Bytes that are no
    messages end it: they are refused when they are parsed."""
    from onnx import ModelProto

    count, waiting = 0, [(0, len(data), ModelProto.DESCRIPTOR)]
    while waiting and count <= most:
        at, end, kind = waiting.pop()
        fields = _fields(kind)
        while at < end and count <= most:
            count += 1
            key, at = _number(data, at, end)
            wire, inner = key & 7, fields.get(key >> 3)
            if wire == _VARINT:
                _, at = _number(data, at, end)
            elif wire == _LENGTH:
                size, at = _number(data, at, end)
                if inner is not None:
                    waiting.append((at, min(at + size, end), inner))
                at += size
            elif wire in (_FIXED32, _FIXED64):
                at += 8 if wire == _FIXED64 else 4
            else:
                break
    return count


def _fields(kind: Any, known: dict[str, dict[int, Any]] = {}) -> dict[int, Any]:  # noqa: B006
    """The types of those fields of a message that are messages themselves, by number."""
    if kind.full_name not in known:
        known[kind.full_name] = {f.number: f.message_type for f in kind.fields if f.message_type}
    return known[kind.full_name]


def _number(data: Any, at: int, end: int) -> tuple[int, int]:
    """A whole number of 7 bits a byte, and where it ends."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    return 0, end


@dataclass(slots=True)
class _Body:
    """Nodes of a function, or of the model, and their bytes; how often it calls each function."""

    nodes: int = 0
    size: int = 0
    calls: Counter[_Key] = field(default_factory=Counter)


def require_inlined_size(proto: Any, limits: Limits) -> None:
    """InputError if a model is too large with all its functions written out, or they never end."""
    bodies = {(f.domain, f.name, f.overload): f.node for f in proto.functions}
    total = _written_out({k: _body(nodes, bodies) for k, nodes in bodies.items()},
                         _body(proto.graph.node, bodies))  # fmt: skip
    if total.nodes > limits.nodes:
        raise InputError(
            f"with its functions written out, the graph has {total.nodes} operators, more than "
            f"{limits.nodes}; give a larger --max-nodes if that is meant"
        )
    if total.size > limits.constants:
        raise InputError(
            f"with its functions written out, the graph takes {total.size / 1e9:.1f} GB, more than "
            f"{limits.constants / 1e9:.1f} GB; give a larger --max-memory if that is meant"
        )


def _body(nodes: Sequence[Any], functions: Any) -> _Body:
    found = _Body()
    for n in _all(nodes):
        key = (n.domain, n.op_type, n.overload)
        if key in functions:
            found.calls[key] += 1
        else:
            found.nodes += 1
    # With the graphs in its attributes, so that one function is not counted twice.
    found.size = sum(n.ByteSize() for n in nodes)
    return found


def _all(nodes: Sequence[Any]) -> Iterator[Any]:
    """Nodes, and those of the graphs in their attributes."""
    waiting = [nodes]
    while waiting:
        for n in waiting.pop():
            yield n
            for a in n.attribute:
                waiting += [g.node for g in (*([a.g] if a.HasField("g") else []), *a.graphs)]


def _written_out(functions: dict[_Key, _Body], main: _Body) -> _Body:
    """What is called added up, from the functions that call none to the model."""
    done: dict[_Key, tuple[int, int, int]] = {}  # nodes, bytes, depth
    begun: set[_Key] = set()
    waiting: list[_Key] = list(main.calls)
    while waiting:
        key = waiting[-1]
        missing = [c for c in functions[key].calls if c not in done]
        if missing and key in begun:
            raise InputError(f"its function '{key[1]}' calls itself; export it again")
        if not missing:
            done.setdefault(key, _added(functions[key], done))
            waiting.pop()
        begun.add(key)
        waiting += missing
    nodes, size, _ = _added(main, done)
    return _Body(nodes, size)


def _added(body: _Body, done: dict[_Key, tuple[int, int, int]]) -> tuple[int, int, int]:
    inner = [(done[key], times) for key, times in body.calls.items()]
    depth = 1 + max((d for (_, _, d), _ in inner), default=0)
    if depth > _DEEPEST:
        raise InputError(f"its functions call each other {_DEEPEST} deep; export it again")
    return (
        body.nodes + sum(n * times for (n, _, _), times in inner),
        body.size + sum(s * times for (_, s, _), times in inner),
        depth,
    )
