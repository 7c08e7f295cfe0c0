"""Comparison with an oracle: Transformers in float32, or the interpreter. The tolerances of all
tests that compare outputs are these two."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

# A whole model in float32 against Transformers in float32, outputs of unit scale. Both round at
# each of some hundred sums, in other orders; on the families of these tests that comes to 3e-5 at
# most. A wrong kernel is far beyond: without its queries attention moves outputs by 1e-2 and more
# (test_attention_moves_what_mobilebert_gives).
FLOAT32 = 1e-4
# What is few roundings from its oracle: one function, probabilities of a model of one layer, and
# graphs computed in float64 by both.
SHALLOW = 1e-5


def assert_close(
    got: ArrayLike, want: ArrayLike, where: str = "", *, tolerance: float = FLOAT32,
    scale: float = 1.0,
) -> None:  # fmt: skip
    """The same shape, numbers that are finite, and no difference above `tolerance` of `scale`.

    Nothing is broadcast, and nothing at all is no agreement: the oracle must have given numbers.
    """
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{where}: shape {got.shape}, not {want.shape}"
    assert want.size, f"{where}: nothing to compare"
    assert np.isfinite(want).all(), f"{where}: the oracle's own numbers are not finite"
    difference = np.abs(got.astype(np.float64) - want).max() / scale
    assert difference <= tolerance, f"{where}: differs by {difference:.1e}, not {tolerance:.0e}"
