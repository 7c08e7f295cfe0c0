"""Arch: what is searched: a width, and a sequence of blocks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from canao.artifact.reading import parse_json
from canao.errors import InputError

# model_type of models whose layers have shapes of their own (blocks.py).
BLOCK_FAMILY = "canao-bert"

_WHOLE = "give layers, hidden, heads and ffn"
_BLOCKS = "give hidden, head_size and blocks"
_BLOCK = "give each block heads and ffn, and a precision if it has one of its own"
_MOST_BLOCKS = 1024
_UNIFORM = re.compile(r"L(\d{1,6}) H(\d{1,6}) A(\d{1,6}) F(\d{1,6})")
_OF_BLOCKS = re.compile(r"H(\d{1,6}) D(\d{1,6}) (.+)")
_RUN = re.compile(r"(?:(\d{1,4})x)?(\d{1,6})\+(\d{1,6})(?::([a-z][a-z0-9-]*))?")
# Which there are is known further down, where libraries are compiled (precision/quantize.py).
_PRECISION = re.compile(r"(?:[a-z][a-z0-9-]*)?")


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """One layer of an encoder: attention, then a feed-forward network (FFN).

    heads       attention heads; 0: the layer has no attention, nor its norm
    ffn         FFN units; 0: the layer has no FFN, nor its norm
    precision   of its products in the compiled library; empty: the library's own
    """

    heads: int
    ffn: int
    precision: str = ""

    def __post_init__(self) -> None:
        for name in ("heads", "ffn"):
            _check(f"block's {name}", getattr(self, name), 0)
        if not self.heads and not self.ffn:
            raise InputError("architecture: a block has neither heads nor ffn; leave it out")
        if not _PRECISION.fullmatch(self.precision):
            said = f"a block's precision is {self.precision!r:.40}"
            raise InputError(f"architecture: {said}; {_BLOCK}")

    def __str__(self) -> str:
        own = f":{self.precision}" if self.precision else ""
        return f"{self.heads}+{self.ffn}{own}"


@dataclass(frozen=True, slots=True, order=True)
class Arch:
    """The shape of a BERT-like encoder, which the controller proposes.

    hidden      width of the residual stream
    head_size   width of an attention head, in all blocks
    blocks      the layers, from the input up
    """

    hidden: int
    head_size: int
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        _check("hidden", self.hidden, 1)
        _check("head_size", self.head_size, 1)
        if not self.blocks:
            raise InputError("architecture: it has no blocks; give at least one")

    @classmethod
    def uniform(cls, layers: int, hidden: int, heads: int, ffn: int) -> Arch:
        """Layers that are all alike, whose heads together are as wide as the residual stream."""
        for name, value in (("layers", layers), ("hidden", hidden), ("heads", heads), ("ffn", ffn)):
            _check(name, value, 1)
        if layers > _MOST_BLOCKS:
            raise InputError(
                f"architecture: layers is {layers}; give a whole number to {_MOST_BLOCKS}"
            )
        if hidden % heads:
            raise InputError(f"architecture: hidden {hidden} is not a multiple of heads {heads}")
        return cls(hidden, hidden // heads, (Block(heads, ffn),) * layers)

    @property
    def layers(self) -> int:
        return len(self.blocks)

    @property
    def heads(self) -> int:
        """Heads of the block that has most."""
        return max(block.heads for block in self.blocks)

    @property
    def ffn(self) -> int:
        """FFN units of the block that has most."""
        return max(block.ffn for block in self.blocks)

    @property
    def width(self) -> int:
        """Of all heads together, in the block that has most."""
        return self.heads * self.head_size

    @property
    def is_alike(self) -> bool:
        """Whether its blocks are all the same, with both halves and no precision of their own."""
        first = self.blocks[0]
        whole = first.heads > 0 and first.ffn > 0 and not first.precision
        return whole and all(block == first for block in self.blocks)

    @property
    def is_uniform(self) -> bool:
        """Whether it is one of `uniform`: then its models are plain ones of Transformers."""
        return self.is_alike and self.width == self.hidden

    def flops(self, length: int) -> int:
        """FLOPs of the encoder's matrix products at `length` tokens, 2 for a multiply-add."""
        total = 0
        for block in self.blocks:
            width = block.heads * self.head_size
            total += length * self.hidden * (4 * width + 2 * block.ffn) + 2 * length**2 * width
        return 2 * total

    def weights(self) -> int:
        """How many weights the products of its layers have."""
        return sum(self.hidden * (4 * block.heads * self.head_size + 2 * block.ffn)
                   for block in self.blocks)  # fmt: skip

    def no_larger_than(self, other: Arch) -> bool:
        """Whether `other` has at least as much of everything, block by block in some order-keeping
        pairing of the blocks: it cannot be the faster one."""
        if self.hidden > other.hidden:
            return False
        waiting = iter(other.blocks)
        return all(any(self._within(block, other, theirs) for theirs in waiting)
                   for block in self.blocks)  # fmt: skip

    def _within(self, block: Block, other: Arch, theirs: Block) -> bool:
        return (block.heads <= theirs.heads and block.ffn <= theirs.ffn
                and block.heads * self.head_size <= theirs.heads * other.head_size
                and block.precision == theirs.precision)  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """The JSON form: four numbers where it is uniform."""
        if self.is_uniform:
            return {"layers": self.layers, "hidden": self.hidden, "heads": self.heads,
                    "ffn": self.ffn}  # fmt: skip
        return {"hidden": self.hidden, "head_size": self.head_size,
                "blocks": [_block_row(block) for block in self.blocks]}  # fmt: skip

    def to_json(self) -> str:
        return json.dumps(self.facts(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Arch:
        """The architecture that `to_json` wrote; InputError for other text."""
        return cls.of(parse_json(text, "architecture", remedy=_WHOLE), "architecture")

    @classmethod
    def of(cls, row: Mapping[str, Any], place: str) -> Arch:
        """The architecture of these `facts`; InputError that begins with `place`."""
        names, blocks = sorted(row), row.get("blocks")
        if names == ["ffn", "heads", "hidden", "layers"]:
            return cls.uniform(**row)
        if names != ["blocks", "head_size", "hidden"]:
            remedy = _WHOLE if blocks is None else _BLOCKS
            raise InputError(f"{place}: architecture has {', '.join(names)}; {remedy}"[:200])
        if not isinstance(blocks, Sequence) or not 0 < len(blocks) <= _MOST_BLOCKS:
            raise InputError(f"{place}: blocks is no list of 1 to {_MOST_BLOCKS}; {_BLOCK}")
        return cls(row["hidden"], row["head_size"], tuple(_block(b, place) for b in blocks))

    @classmethod
    def parse(cls, text: str) -> Arch:
        """The architecture that is shown as `text`: 'L3 H192 A6 F512', or 'H192 D32 2x6+512 0+256'.
        InputError for other text."""
        found = _UNIFORM.fullmatch(text.strip())
        if found:
            return cls.uniform(*map(int, found.groups()))
        found = _OF_BLOCKS.fullmatch(text.strip())
        parts = [] if found is None else [_RUN.fullmatch(part) for part in found[3].split()]
        if found is None or None in parts or sum(int(p[1] or 1) for p in parts if p) > _MOST_BLOCKS:
            raise InputError(
                f"architecture '{text[:60]}' is not understood; give layers, width, heads and FFN "
                "units as 'L6 H192 A6 F768', or width, head size and each block's heads and FFN "
                "units as 'H192 D32 2x6+512 0+256'"
            )
        blocks = [Block(int(p[2]), int(p[3]), p[4] or "") for p in parts if p
                  for _ in range(int(p[1] or 1))]  # fmt: skip
        return cls(int(found[1]), int(found[2]), tuple(blocks))

    def __str__(self) -> str:
        if self.is_uniform:
            return f"L{self.layers} H{self.hidden} A{self.heads} F{self.ffn}"
        runs = [(len(list(same)), block) for block, same in groupby(self.blocks)]
        shown = " ".join(f"{count}x{block}" if count > 1 else str(block) for count, block in runs)
        return f"H{self.hidden} D{self.head_size} {shown}"


def _block_row(block: Block) -> dict[str, Any]:
    row: dict[str, Any] = {"heads": block.heads, "ffn": block.ffn}
    return row | ({"precision": block.precision} if block.precision else {})


def _block(row: Any, place: str) -> Block:
    known = {"heads", "ffn", "precision"}
    if not isinstance(row, Mapping) or not {"heads", "ffn"} <= row.keys() <= known:
        raise InputError(f"{place}: a block is {str(row)[:80]}; {_BLOCK}")
    if not isinstance(row.get("precision", ""), str):
        raise InputError(f"{place}: a block's precision is no text; {_BLOCK}")
    return Block(**row)


def _check(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"architecture: {name} is {value!r}; give a whole number from {least}")
