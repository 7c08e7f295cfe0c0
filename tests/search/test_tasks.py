"""Searches for students that label words, and that have several labels of a text: from the teacher
to a library that was checked, with a device that runs nothing and training of seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import canao
from canao.accuracy.entities import entity_score
from canao.accuracy.measure import labelled_text, predictions
from canao.compiler.pipeline import compile_model
from canao.defaults import silent
from canao.errors import InputError
from canao.inference.compiled_model import CompiledModel
from canao.model.arch import Arch
from canao.model.embedder import load_embedder
from canao.model.hf import load_tokenizer
from canao.report.write import write_report
from canao.train.data import TextData, load_data
from canao.train.engine.batches import encode
from canao.train.metrics import score
from canao.train.options import TrainOptions
from canao.train.task_names import SEVERAL, VECTORS, WORDS
from canao.train.teacher.finetune import predict
from canao.train.trainer import Trainer
from tests.train.tiny_bert import (
    TAGS,
    save_sentence_model,
    save_tiny,
    tag_of,
    write_several,
    write_texts,
    write_words,
)

SMALL = Arch.uniform(2, 24, 3, 32)
ASKED = {"budget_ms": 2.0, "device": "null", "trials": 1, "quick_steps": 2, "epochs": 3,
         "teacher_epochs": 6, "teacher_lr": 2e-3, "length": 16, "controller": "random",
         "precision": "int8", "max_loss": 20}  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("teacher"), num_hidden_layers=2)


def test_a_search_for_words(teacher: Path, tmp_path: Path) -> None:
    data, run = write_words(tmp_path / "task", train=160), tmp_path / "run"
    steps, told = list[str](), list[str]()
    result = canao.search(
        teacher=teacher, data=data, run_dir=run, **ASKED, progress=lambda e: told.append(e.text),
        train_progress=lambda stage, *_: steps.append(stage),
    )  # fmt: skip
    manifest = result.artifact.manifest
    assert (manifest["task"], tuple(manifest["labels"])) == (WORDS, TAGS)
    assert manifest["check"]["metric"] == "entity_f1" == result.score.primary
    assert result.certificate.precision == "int8" and result.score.value > 0.6
    # By .conll and by the data of the search, the library says the same.
    for texts in (labelled_text(data), load_data(data)):
        assert predictions(result.artifact, texts).score == result.score
    with CompiledModel(result.artifact) as model:
        found = model.predict("the good film was a bad-plot")
        assert {(e.label, e.text) for e in found} == {("good", "good"), ("bad", "bad")}
    page = write_report(run).read_text()
    assert "entity_f1 (decides)" in page and "with 4 labels: B-bad" in page
    assert json.loads((run / "run.json").read_text())["facts"]["task"] == WORDS
    before = len(steps)
    again = canao.search(teacher=teacher, data=data, run_dir=run, task=WORDS, **ASKED,
                         train_progress=lambda stage, *_: steps.append(stage))  # fmt: skip
    assert again.score == result.score and len(steps) == before, "nothing is trained again"


def test_the_students_score_is_that_of_its_library(teacher: Path, tmp_path: Path) -> None:
    """In float32, of sentences that are not truncated."""
    data = load_data(write_words(tmp_path / "task", train=80, dev=20))
    options = TrainOptions(max_length=32, batch=16, teacher_epochs=3, teacher_lr=2e-3,
                           final_epochs=2, student_lr=1e-3)  # fmt: skip
    student = Trainer(teacher, data, tmp_path / "w", options, silent).finish(SMALL)
    artifact = compile_model(student.model_dir, tmp_path / "out")
    found = predictions(artifact, data)
    assert found.score.metrics == pytest.approx(dict(student.score.metrics))
    truth = [[tag_of(word) for word in e.words or ()] for e in data.dev]
    with CompiledModel(artifact) as model:
        said = [[p.label for p in model.predict(word, aggregate="first", ignore_labels=[])][:1]
                for word in ("good", "film")]  # fmt: skip
    assert all(said) and entity_score(truth, truth, TAGS).value == 1.0


def test_a_search_for_several_labels(teacher: Path, tmp_path: Path) -> None:
    data, run = write_several(tmp_path / "task", train=200), tmp_path / "run"
    result = canao.search(teacher=teacher, data=data, run_dir=run, **ASKED)
    manifest = result.artifact.manifest
    assert manifest["task"] == "text-classification"
    assert manifest["problem_type"] == "multi_label_classification"
    assert manifest["check"]["metric"] == "micro_f1" == result.score.primary
    assert result.score.value > 0.6
    texts = labelled_text(data)
    assert isinstance(texts, TextData) and texts.kind == SEVERAL
    found = predictions(result.artifact, texts)
    assert found.score == result.score and found.values.shape == (60, 3)
    assert found.agreement(found) == 1.0
    with CompiledModel(result.artifact) as model:
        said = model.predict("the good cast and a plot")
        assert said.chosen is not None and {label for label, _ in said.scores} == set(texts.labels)
    assert "micro_f1 (decides)" in write_report(run).read_text()
    facts = json.loads((run / "run.json").read_text())["facts"]
    assert facts["task"] == SEVERAL
    single = tmp_path / "single.tsv"
    single.write_text("text\tlabel\n" + "a\tplot\nb\tblame\n" * 20)
    with pytest.raises(InputError, match="has one label for each text, and the model says yes or"):
        predictions(result.artifact, labelled_text(single))
    with pytest.raises(InputError, match="task was 'multi-label-classification', now 'text-class"):
        canao.search(teacher=teacher, data=single, run_dir=run, **ASKED)


def test_a_search_for_vectors(tmp_path: Path) -> None:
    """Of texts one a line: the library's vectors are compared with the teacher's."""
    sentence = save_sentence_model(tmp_path / "teacher")
    data, run = write_texts(tmp_path / "task"), tmp_path / "run"
    asked = {k: v for k, v in ASKED.items() if not k.startswith("teacher")}
    result = canao.search(teacher=sentence, data=data, run_dir=run, task=VECTORS, **asked)
    manifest = result.artifact.manifest
    assert manifest["task"] == VECTORS and manifest["precision"] == "int8"
    assert manifest["check"]["metric"] == result.score.primary == "cosine"
    assert result.score.value > 0.6
    with CompiledModel(result.artifact) as model:
        vector = model.predict("the good film")
    assert vector.shape == (32,) and float((vector**2).sum()) == pytest.approx(1.0, abs=1e-4)
    assert "cosine (decides)" in write_report(run).read_text()
    with pytest.raises(InputError, match="nothing to compare vectors with; give pairs of text"):
        predictions(result.artifact, load_data(data, VECTORS))


def test_vectors_are_judged_by_pairs(tmp_path: Path) -> None:
    """As `compile --check` reads them, and as the search does; the library says the same as the
    model that it was made of."""
    sentence = save_sentence_model(tmp_path / "teacher")
    data = write_texts(tmp_path / "task", 20, 30, scores=True)
    texts, options = load_data(data, VECTORS), TrainOptions(max_length=32)
    student = Trainer(sentence, texts, tmp_path / "w", options, silent)
    artifact = compile_model(student.skeleton(SMALL), tmp_path / "out")
    for given in (labelled_text(data), texts):
        found = predictions(artifact, given)
        assert found.score.primary == "spearmanr" and found.agreement(found) == pytest.approx(1.0)
        model = load_embedder(tmp_path / "w" / "skeletons" / "L2-H24-A3-F32")
        encoded = encode(load_tokenizer(sentence), texts.dev, 32, 2, texts.task)
        want = score(predict(model, encoded), texts)
        assert found.score.metrics == pytest.approx(dict(want.metrics), abs=1e-4)
    several = labelled_text(write_several(tmp_path / "several", 10, 4))
    with pytest.raises(InputError, match="is data for multi-label-classification, and the model"):
        predictions(artifact, several)
