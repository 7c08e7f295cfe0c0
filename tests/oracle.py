"""Comparison with an oracle: Transformers in float32, the interpreter, or the same by other means.

The tolerances of tests that compare what models compute are the ones below, each with its reason.
Tests of something else, as of how a number is rounded or how training ends, have their own.
"""

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
# The same sums of few numbers, or one computation that ran twice: the last bits of float32.
SAME = 1e-6
# What numbers that are not of unit scale may differ by beside these, as a part of each: states
# between layers, which grow from layer to layer, and gradients, which are sums over a whole batch.
OF_STATES, OF_GRADIENTS = 1e-4, 1e-3
# What was kept in half precision on the way, whose step is 2^-11 of a number.
HALF = 1e-3

# In fewer bits, against the interpreter's results of the same graph, outputs of unit scale.
#
# int8: a float32 sum that is rounded in another order may move a level by one, which moves an
# output by a part of 1/127 of its row, and more of them in the layers after it: 0.025 was seen in
# one of 24 texts (Albert, whose layers share their weights). A wrong scale or column is far beyond.
LEVEL = 0.04
# Of models of which a single layer is in int8, or whose two layers are the same text twice.
ONE_LEVEL = 0.02
# By precision. Levels of 7 bits are twice as far apart as those of 8. bf16 and fp16: sums of
# rounded numbers, rounded in another order, are off by a part of 2^-23 of the largest for each; a
# later row may then round to the next bf16, a part of 2^-8, or the next fp16, 2^-11; and so may
# the weights of values in attention.
FEWER_BITS = {
    "int8": LEVEL, "int8-7bit": 2 * LEVEL, "bf16": 8e-3, "fp16": 1e-3, "int8-weights": FLOAT32,
}  # fmt: skip
# Of logits of a vocabulary: of thousands of columns one has large weights where a number is rounded
# the other way, which then moves it by its own step times that weight.
OF_VOCABULARY = {**FEWER_BITS, "bf16": 2e-2, "fp16": 2.5e-3}
# Most texts meet the interpreter to roundings of float32, as none of their numbers lies where
# another order of a sum rounds it the other way; in bf16 and fp16 there always are such.
MET = {"int8": 1e-4, "int8-7bit": 1e-4, "int8-weights": 1e-4, "bf16": 1e-2, "fp16": 2.5e-3}
# Where there is one, those after it go the other way as well. At worst all do, and the library is
# as far from the interpreter as both together are from float32.
OTHER_WAY = 2.0
# Where ARM adds up in half precision, sums of 64 products are off by 0.0016 of an output's usual
# size (test_half_sums.py), and the largest of some hundred outputs by a few times that.
HALF_SUMS = 1e-2
# The same of keys and values that are kept in fewer bits, by what they are kept in.
KEPT = {"fp16": 2e-3, "int8": LEVEL}
# Of quantised ONNX files, whose activations have one scale for all rows, against ONNX Runtime.
ONNX_LEVEL = 0.05
# What fewer bits change in outputs of unit scale of the small random models of these tests, at
# most: against float32. Of all layers in int8, of two of four, and of bf16 and fp16.
COST, HALF_COST, NARROW_COST = 0.25, 0.2, 0.05
# The same of all families with all heads, most in logits of vocabularies, and in MobileBERT, whose
# norms do not norm.
COSTS = {"int8": 0.5, "int8-7bit": 0.8, "bf16": 0.2, "fp16": 0.03, "int8-weights": 0.4}


def assert_close(
    got: ArrayLike, want: ArrayLike, where: str = "", *, tolerance: float = FLOAT32,
    scale: float = 1.0, relative: float = 0.0,
) -> None:  # fmt: skip
    """The same shape, numbers that are finite, and no difference above `tolerance` of `scale` and
    `relative` of the oracle's number.

    Nothing is broadcast, and nothing at all is no agreement: the oracle must have given numbers.
    """
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{where}: shape {got.shape}, not {want.shape}"
    assert want.size, f"{where}: nothing to compare"
    assert np.isfinite(want).all(), f"{where}: the oracle's own numbers are not finite"
    off = np.abs(got.astype(np.float64) - want) - relative * np.abs(want)
    difference = off.max() / scale
    assert difference <= tolerance, f"{where}: differs by {difference:.1e}, not {tolerance:.0e}"
