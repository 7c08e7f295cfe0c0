"""The weights file as those see it who only have the artifact: what of it must not be made up."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from canao.artifact.directory import Artifact
from canao.errors import InputError

_HEADER = 64  # bytes


def parts_of(artifact: Artifact) -> bytes:
    """What a weights file must have besides numbers that may be any: its header, and the places in
    tables that the manifest names. In the form that the benchmark reads (runtime/bench_main.c): the
    size of the file and how many parts there are, of each its place and its bytes, then the parts.
    """
    places = [(0, _HEADER), *artifact.places]
    try:
        size = artifact.weights.stat().st_size
        if any(offset + count > size for offset, count in places):
            raise InputError(f"{artifact.weights}: is cut short; compile the model again")
        parts = list(_read(artifact, places))
    except OSError as error:
        raise InputError(
            f"{artifact.weights}: cannot be read ({error.strerror}); compile the model again"
        ) from None
    numbers = [size, len(places), *(n for place in places for n in place)]
    return struct.pack(f"<{len(numbers)}q", *numbers) + b"".join(parts)


def _read(artifact: Artifact, places: list[tuple[int, int]]) -> Iterator[bytes]:
    with open(artifact.weights, "rb") as stream:
        for offset, count in places:
            stream.seek(offset)
            yield stream.read(count)
