"""The comparison that all numeric tests rest on fails where it should."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracle import FLOAT32, OF_STATES, SHALLOW, assert_close

NUMBERS = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)


def changed(value: float) -> np.ndarray:
    """NUMBERS with another value in the last place."""
    other = NUMBERS.copy()
    other[-1, -1] = value
    return other


def test_what_agrees() -> None:
    assert_close(NUMBERS, NUMBERS)
    assert_close(changed(2 + 0.9 * FLOAT32), NUMBERS)
    assert_close(changed(2 - 0.9 * SHALLOW), NUMBERS.tolist(), tolerance=SHALLOW)
    assert_close(changed(2 + 2.9 * FLOAT32), NUMBERS, scale=3.0)


@pytest.mark.parametrize(
    ("got", "want", "message"),
    [
        (changed(2 + 1.1 * FLOAT32), NUMBERS, r"^here: differs by 1\.1e-04, not 1e-04"),
        (changed(2 - 1.1 * FLOAT32), NUMBERS, "differs by"),
        (changed(np.nan), NUMBERS, "differs by nan"),
        (changed(np.inf), NUMBERS, "differs by inf"),
        (NUMBERS, changed(np.nan), "oracle"),
        (changed(np.nan), changed(np.nan), "oracle"),
        (changed(np.inf), changed(np.inf), "oracle"),
        (NUMBERS[:1], NUMBERS, r"shape \(1, 4\), not \(3, 4\)"),
        (NUMBERS[0] * 0, 0.0, r"shape \(4,\), not \(\)"),
        (NUMBERS[None], NUMBERS, "shape"),
        (NUMBERS.T, NUMBERS, "shape"),
        (NUMBERS[:0], NUMBERS[:0], "nothing to compare"),
        ([], [], "nothing to compare"),
    ],
)
def test_what_does_not(got: np.ndarray, want: np.ndarray, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_close(got, want, "here")


def test_a_part_of_large_numbers() -> None:
    """`relative` is of the oracle's own number, beside the tolerance."""
    large = NUMBERS * 100
    got = large.copy()
    got[-1, -1] += 0.9 * 200 * OF_STATES
    assert_close(got, large, tolerance=SHALLOW, relative=OF_STATES)
    got[1, 2] += 0.9 * 200 * OF_STATES  # where the number is less than half as large
    with pytest.raises(AssertionError, match="differs by"):
        assert_close(got, large, tolerance=SHALLOW, relative=OF_STATES)


def test_the_smaller_tolerance_is_smaller() -> None:
    got = changed(2 + 2 * SHALLOW)
    assert_close(got, NUMBERS)
    with pytest.raises(AssertionError, match="not 1e-05"):
        assert_close(got, NUMBERS, tolerance=SHALLOW)
