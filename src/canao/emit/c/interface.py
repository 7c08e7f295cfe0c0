"""What a library takes and gives: the entries of a manifest, which the library holds as well."""

from __future__ import annotations

import json
from typing import Any

from canao.emit.c.inputs import id_limit
from canao.graph.ir import Graph


def interface(graph: Graph) -> dict[str, Any]:
    """The part of a manifest that says how the library is called.

    Ids of an input are below its `limit`, where that is not 0; dimensions are whole numbers, or
    polynomials in s as text.
    """
    return {
        "inputs": [
            {
                "name": i.name,
                "dtype": i.type.dtype.stored.name,
                "shape": ["s"],
                "limit": id_limit(i),
            }
            for i in graph.inputs
            if i.given
        ],
        "outputs": [
            {
                "name": name,
                "dtype": graph.types[value].dtype.stored.name,
                "shape": [str(d) if not isinstance(d, int) else d for d in graph.shape(value)],
            }
            for name, value in graph.outputs
        ],
        "max_length": graph.max_length,
        "resumes": graph.resumes,
    }


def interface_text(graph: Graph) -> str:
    """The interface as the library tells it: JSON, in ASCII and without spaces."""
    return json.dumps(interface(graph), separators=(",", ":"))


def c_string(text: str) -> str:
    """A literal of C for a text, whatever is in it."""
    escaped = "".join(_escape(byte) for byte in text.encode("utf-8"))
    return f'"{escaped}"'


def _escape(byte: int) -> str:
    if chr(byte) in '"\\?':  # a question mark may be part of a trigraph
        return f"\\{chr(byte)}"
    # Three octal digits end by themselves.
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"


def c_comment(text: str) -> str:
    """A text as it may stand in a comment of C, of which it cannot be the end."""
    return "".join(c if c.isprintable() else " " for c in text).replace("*/", "* /")
