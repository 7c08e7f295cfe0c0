from __future__ import annotations

import numpy as np
import pytest

from canao.errors import InputError
from canao.train.data import Example, TextData
from canao.train.metrics import score


def data(labels: list[float], names: tuple[str, ...] = ()) -> TextData:
    dev = tuple(Example("t", None, label) for label in labels)
    return TextData("d", dev, dev, names, ("sentence",))


def test_two_classes_by_hand() -> None:
    # 2 true positives, 1 false positive, 1 false negative, 2 true negatives.
    found = score(np.array([1, 1, 1, 0, 0, 0]), data([1, 1, 0, 1, 0, 0], ("0", "1")))
    assert found.metrics == pytest.approx(
        {"accuracy": 4 / 6, "f1": 2 / 3, "matthews_correlation": (4 - 1) / 9}
    )
    assert (found.primary, found.value) == ("accuracy", found.metrics["accuracy"])


def test_several_classes_by_hand() -> None:
    found = score(np.array([0, 0, 1, 1]), data([0, 1, 1, 2], ("a", "b", "c")))
    assert found.metrics == pytest.approx({"accuracy": 0.5, "macro_f1": (2 / 3 + 1 / 2 + 0) / 3})


def test_values_by_hand() -> None:
    found = score(np.array([1.0, 2.0, 4.0]), data([0.0, 1.0, 2.0]))
    pearson = 3 / np.sqrt(2 * 14 / 3)
    assert found.metrics["pearson"] == pytest.approx(pearson)
    assert found.metrics["spearmanr"] == pytest.approx(1.0)
    assert found.value == pytest.approx((pearson + 1) / 2)
    assert found.primary == "pearson_spearman"


@pytest.mark.parametrize("predictions", [[3.0, 3.0, 3.0], [1.0, float("nan"), 2.0]])
def test_undefined_correlation_counts_nothing(predictions: list[float]) -> None:
    assert score(np.array(predictions), data([0.0, 1.0, 2.0])).value == 0.0


def test_chosen_metric() -> None:
    assert score(np.array([1, 0]), data([1, 0], ("n", "y")), "f1").primary == "f1"
    with pytest.raises(InputError, match="'pearson' is not one of accuracy, f1"):
        score(np.array([1, 0]), data([1, 0], ("n", "y")), "pearson")


def test_wrong_number_of_predictions() -> None:
    with pytest.raises(InputError, match=r"shape \(1,\), dev set has \(2,\)"):
        score(np.array([1]), data([1, 0], ("n", "y")))
