"""What a certificate says of a library's own predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from canao.accuracy.certified import scored
from canao.accuracy.measure import labelled_text, predictions
from canao.artifact.directory import Artifact
from canao.compiler.pipeline import compile_model
from canao.errors import InputError
from tests.accuracy.test_entities import save_tagger, sentences, write_conll
from tests.accuracy.test_gate import save_model
from tests.train.tiny_bert import write_task


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("classes")
    return compile_model(save_model(folder / "model", ("neg", "pos")), folder / "library")


def test_the_metric_and_its_interval(artifact: Artifact, tmp_path: Path) -> None:
    """The interval is about that of the normal approximation: 1.96 standard errors each way."""
    write_task(tmp_path / "task", train=8, dev=400)
    data = labelled_text(tmp_path / "task")
    score, found = scored(artifact, data)
    assert score == predictions(artifact, data).score and found.value == score.value
    assert (found.metric, found.examples) == ("accuracy", 400)
    error = np.sqrt(found.value * (1 - found.value) / 400)
    assert found.low <= found.value <= found.high
    assert found.high - found.low == pytest.approx(3.92 * error, rel=0.25)
    assert scored(artifact, data)[1] == found  # the same examples, the same interval
    other = scored(artifact, data, "f1")[1]
    assert other.metric == "f1" and other.digest == found.digest
    with pytest.raises(InputError, match="metric 'speed' is not one of accuracy"):
        scored(artifact, data, "speed")


def test_the_digest_is_of_the_examples(artifact: Artifact, tmp_path: Path) -> None:
    write_task(tmp_path / "task", train=8, dev=40)
    before = scored(artifact, labelled_text(tmp_path / "task"))[1]
    dev = tmp_path / "task" / "dev.tsv"
    dev.write_text(dev.read_text() + dev.read_text().splitlines()[1] + "\n")
    assert scored(artifact, labelled_text(tmp_path / "task"))[1].digest != before.digest


def test_words_with_labels(tmp_path: Path) -> None:
    library = compile_model(save_tagger(tmp_path / "model"), tmp_path / "library")
    data = labelled_text(write_conll(tmp_path / "dev.conll", sentences(40)))
    score, found = scored(library, data)
    assert found.metric == score.primary == "entity_f1" and found.examples == 40
    assert found.low <= found.value == score.value <= found.high < 1
