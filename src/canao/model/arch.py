"""Arch: the four numbers that are searched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from canao.artifact.reading import parse_json
from canao.errors import InputError

_WHOLE = "give layers, hidden, heads and ffn"


@dataclass(frozen=True, slots=True, order=True)
class Arch:
    """The shape of a BERT-like encoder, which the controller proposes.

    `hidden` is the width of the residual stream, `ffn` the number of FFN units. All layers have
    the same shape, and `hidden` is a multiple of `heads`.
    """

    layers: int
    hidden: int
    heads: int
    ffn: int

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "ffn"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"architecture: {name} is {value!r}; give a whole number from 1")
        if self.hidden % self.heads:
            raise InputError(
                f"architecture: hidden {self.hidden} is not a multiple of heads {self.heads}"
            )

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads

    def flops(self, length: int) -> int:
        """FLOPs of the encoder's matrix products at `length` tokens, 2 for a multiply-add."""
        h, f = self.hidden, self.ffn
        per_layer = length * (4 * h * h + 2 * h * f) + 2 * length * length * h
        return 2 * self.layers * per_layer

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Arch:
        """The architecture that `to_json` wrote; InputError for other text."""
        return cls.of(parse_json(text, "architecture", remedy=_WHOLE), "architecture")

    @classmethod
    def of(cls, row: Mapping[str, Any], place: str) -> Arch:
        """The architecture with these four numbers; InputError that begins with `place`."""
        names = [entry.name for entry in fields(cls)]
        if sorted(row) != sorted(names):
            raise InputError(f"{place}: architecture has {', '.join(sorted(row))}; {_WHOLE}"[:200])
        return cls(**row)

    def __str__(self) -> str:
        return f"L{self.layers} H{self.hidden} A{self.heads} F{self.ffn}"
