"""Batches of products: the heads, as one size and one stride."""

from __future__ import annotations

from collections.abc import Sequence

from canao.graph.ir import Dim


def batch_of(shape: Sequence[Dim], strides: Sequence[Dim]) -> tuple[Dim, Dim]:
    """Size and stride of the one batch dimension that is not 1."""
    for size, stride in zip(shape[:-2], strides[:-2], strict=True):
        if size != 1:
            return size, stride
    return 1, 0


def one_batch(batch: Sequence[Dim]) -> bool:
    """Whether at most one batch dimension (the heads) is not 1: what `batch_of` can say."""
    return sum(d != 1 for d in batch) <= 1
