"""How near outputs are to float32's, and what each precision allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from canao.accuracy.verified import Compared, _compared, failures, limits, verified
from canao.compiler.pipeline import compile_model
from canao.defaults import NEAR_COSINE, NEAR_LARGEST, SAME_COSINE, SAME_LARGEST
from canao.device.bench import local_device
from tests.compiler.models import classifier, decoder

SAME, NEAR = (SAME_COSINE, SAME_LARGEST), (NEAR_COSINE, NEAR_LARGEST)
ROW = np.linspace(-1, 1, 11, dtype=np.float32)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number(wrong: float) -> None:
    bad = ROW.copy()
    bad[3] = wrong
    for mine, float32 in ((bad, ROW), (ROW, bad), (bad, bad)):
        found = _compared(8, [ROW, mine], [ROW, float32], NEAR)
        assert found == Compared(8, 0.0, np.inf, False)
        assert list(failures([found])) == [8]


def test_the_worst_output_counts() -> None:
    assert _compared(8, [ROW, ROW], [ROW, ROW], SAME) == Compared(8, 1.0, 0.0, True)
    found = _compared(8, [ROW, ROW + 0.1], [ROW, ROW], SAME)
    assert not found.holds and found.largest == pytest.approx(0.1 / ROW.std())
    assert _compared(8, [ROW, ROW + 0.1], [ROW, ROW], (0.9, 1.0)).holds
    assert not _compared(8, [ROW, -ROW], [ROW, ROW], NEAR).holds
    zeros = np.zeros(4, np.float32)
    assert _compared(8, [zeros], [zeros], SAME).holds
    assert not _compared(8, [zeros + 1], [zeros], SAME).holds


def test_int8(tmp_path: Path) -> None:
    """It is allowed what it loses."""
    artifact = compile_model(classifier("small"), tmp_path / "out", precision="int8")
    assert limits(artifact) == NEAR
    found = verified(artifact, classifier("small"), local_device(), 33)
    assert all(one.holds for one in found) and max(one.largest for one in found) > SAME_LARGEST


def test_a_decoder_of_few_tokens(tmp_path: Path) -> None:
    model = decoder(layers=1, max_length=20)
    artifact = compile_model(model, tmp_path / "out")
    assert limits(artifact) == SAME
    found = verified(artifact, model, local_device())
    assert [one.length for one in found] == [1, 7, 8, 17, 20] and not list(failures(found))
