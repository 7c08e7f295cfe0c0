"""From a caller's arrays to what the library takes: ids are checked, and padding is removed.

The library runs sequences without padding. A padding mask (Transformers' `attention_mask`) says
which tokens of a batch are padding: they are removed first, and outputs get zeros in their places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from canao.artifact.directory import Artifact
from canao.artifact.text_settings import PROMPT_MASK
from canao.errors import InputError
from canao.graph.dtypes import F32, I32


class Binding:
    """The inputs of an artifact's library, by its manifest. InputError names what is wrong."""

    def __init__(self, artifact: Artifact) -> None:
        self.inputs: list[dict[str, Any]] = artifact.manifest["inputs"]
        # The mask of a prompt's tokens is given by name only: in its place stands the padding mask.
        self._positional = [i["name"] for i in self.inputs if i["name"] != PROMPT_MASK]
        self.max_length = artifact.max_length
        self.left_padding = bool(artifact.manifest.get("left_padding", False))

    def bind_masked(
        self, inputs: Sequence[Any], named: dict[str, Any]
    ) -> tuple[list[np.ndarray], np.ndarray | None]:
        """The inputs, and the padding mask in their shape if one is given."""
        mask = named.pop("attention_mask", None)
        if len(inputs) == len(self._positional) + 1:
            if mask is not None:
                raise InputError("attention_mask is given twice")
            *inputs, mask = inputs
        arrays = self.bind(inputs, named)
        if mask is None:
            return arrays, None
        mask = np.asarray(mask)
        if mask.dtype.kind not in "iub" or mask.shape != arrays[0].shape:
            raise InputError(
                f"attention_mask is {mask.dtype} of shape {list(mask.shape)}; give 0 and 1 "
                f"in the shape of input_ids, {list(arrays[0].shape)}"
            )
        if mask.min() < 0 or mask.max() > 1:
            bad = int(mask[(mask < 0) | (mask > 1)][0])
            raise InputError(f"attention_mask holds {bad}; give 1 for tokens and 0 for padding")
        return arrays, mask

    def span(self, index: int, mask: np.ndarray | None, length: int) -> slice:
        """The tokens of sequence `index` that are not padding, as a slice of `length` tokens."""
        if mask is None:
            return slice(0, length)
        ones = np.flatnonzero(mask)
        if not len(ones):
            raise InputError(f"sequence {index}: attention_mask is 0 everywhere; leave it out")
        start, stop = int(ones[0]), int(ones[-1]) + 1
        if len(ones) != stop - start:
            hole = start + int(np.flatnonzero(mask[start:stop] == 0)[0])
            raise InputError(
                f"sequence {index}: attention_mask has a 0 at {hole}, between ones; "
                "take those tokens out of input_ids"
            )
        if start and not self.left_padding:
            raise InputError(
                f"sequence {index}: attention_mask has padding at the start, and this model counts "
                "positions from there; pad at the end"
            )
        return slice(start, stop)

    def bind(self, inputs: Sequence[Any], named: dict[str, Any]) -> list[np.ndarray]:
        """All inputs in the manifest's order, of the shape of input_ids, [s] or [batch, s]; those
        left out are 0."""
        names = [i["name"] for i in self.inputs]
        if len(inputs) > len(self._positional):
            raise InputError(f"{len(inputs)} inputs given; the model takes {', '.join(names)}")
        given = dict(zip(self._positional, inputs, strict=False))
        for name, value in named.items():
            if name not in names or name in given:
                raise InputError(f"input '{name}' is unknown or given twice; "
                                 f"the model takes {', '.join(names)}")  # fmt: skip
            given[name] = value
        if "input_ids" not in given:
            raise InputError("input_ids is missing")
        first = ids_of("input_ids", given["input_ids"])
        arrays = [ids_of(n, given[n]) if given.get(n) is not None else np.zeros_like(first)
                  for n in names]  # fmt: skip
        for name, array in zip(names, arrays, strict=True):
            if array.shape != first.shape:
                raise InputError(
                    f"{name} has shape {list(array.shape)}, input_ids {list(first.shape)}; "
                    "give both the same shape"
                )
        return arrays

    def bind_sequence(self, sequence: Any) -> list[np.ndarray]:
        """The inputs of one sequence of a batch, each [s]."""
        if isinstance(sequence, Mapping):
            if "attention_mask" in sequence:
                raise InputError("attention_mask is not taken here; give sequences without padding")
            arrays = self.bind((), dict(sequence))
        elif (
            isinstance(sequence, (list, tuple)) and sequence and hasattr(sequence[0], "__len__")
        ):
            arrays = self.bind(sequence, {})
        else:
            arrays = self.bind((sequence,), {})
        if arrays[0].ndim != 1:
            raise InputError(f"input_ids has shape {list(arrays[0].shape)}; give [s]")
        return arrays

    def checked(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One sequence's inputs as the library reads them; InputError if it cannot run them."""
        length = len(arrays[0])
        if not 1 <= length <= self.max_length:
            raise InputError(f"length {length} is outside 1..{self.max_length}")
        for slot, array in zip(self.inputs, arrays, strict=True):
            limit = slot["limit"] or 2**31
            if array.min() < 0 or array.max() >= limit:
                bad = int(array[(array < 0) | (array >= limit)][0])
                raise InputError(f"{slot['name']} holds {bad}; ids must be 0 to {limit - 1}")
        return [np.ascontiguousarray(a, I32.numpy) for a in arrays]


def ids_of(name: str, value: Any) -> np.ndarray:
    """Whole numbers of shape [s] or [batch, s]."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2) or array.size == 0:
        raise InputError(
            f"{name} is {array.dtype} of shape {list(array.shape)}; "
            "give whole numbers of shape [s] or [batch, s]"
        )
    return array


def padded(output: dict[str, Any], array: np.ndarray, span: slice, length: int) -> np.ndarray:
    """The output of one sequence with its padding back: 0 there, in every dimension of tokens."""
    if span == slice(0, length):
        return array
    places = tuple(slice(None) if isinstance(d, int) else span for d in output["shape"])
    if any(d not in ("s", 1) for d in output["shape"] if not isinstance(d, int)):
        raise InputError(f"output {output['name']} cannot be padded; give ids without padding")
    whole = np.zeros(output_shape(output, length), F32.numpy)
    whole[places] = array
    return whole


def output_shape(output: dict[str, Any], length: int) -> tuple[int, ...]:
    """Concrete shape; dimensions are ints or polynomials in s as the manifest writes them."""
    sizes = []
    for d in output["shape"]:
        if isinstance(d, int):
            sizes.append(d)
            continue
        total = 0
        for term in str(d).split("+"):
            value = 1
            for factor in term.strip().split("*"):
                if factor != "s" and not factor.isdigit():
                    raise InputError(f"manifest: output shape {output['shape']} is not readable")
                value *= length if factor == "s" else int(factor)
            total += value
        sizes.append(total)
    return tuple(sizes)
