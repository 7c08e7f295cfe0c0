"""Teachers and students of tasks beyond one label a text, as the search asks for them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_trainer import OPTIONS, SMALL, Watch
from tiny_bert import GOOD, TAGS, write_several, write_words
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from canao.errors import InputError
from canao.model import hf
from canao.model.arch import Arch
from canao.train.data import Example, TextData, load_data
from canao.train.engine import loop
from canao.train.teacher import teaching
from canao.train.teacher.recipe import TeacherRecipe
from canao.train.trainer import Trainer

ASKED = replace(OPTIONS, teacher_epochs=6)
LONGER = replace(OPTIONS, teacher_epochs=14, final_epochs=5)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> TextData:
    return load_data(write_words(tmp_path_factory.mktemp("words")))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> TextData:
    return load_data(write_several(tmp_path_factory.mktemp("several")))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def tagger(tiny: Path, words: TextData, work: Path) -> Trainer:
    return Trainer(tiny, words, work / "words", ASKED, Watch())


@pytest.fixture
def labeller(tiny: Path, several: TextData, work: Path) -> Trainer:
    return Trainer(tiny, several, work / "several", LONGER, Watch())


def test_a_teacher_learns_words_and_is_taken_as_it_is(
    tagger: Trainer, words: TextData, tmp_path: Path
) -> None:
    found = tagger.teacher()
    assert found.score.primary == "entity_f1" and found.score.value > 0.9
    config = hf.load_config(found.model_dir)
    assert config.architectures == ["BertForTokenClassification"]
    assert tuple(config.id2label[i] for i in range(4)) == TAGS and config.problem_type is None
    watch = Watch()
    again = Trainer(found.model_dir, words, tmp_path, ASKED, watch).teacher()
    assert again.score == found.score and not watch.steps


def test_a_student_of_words_is_a_standard_directory(tagger: Trainer, words: TextData) -> None:
    assert tagger.proxy_score(SMALL).value > 0.5
    student = tagger.finish(SMALL)
    assert student.score.value > 0.85
    model = AutoModelForTokenClassification.from_pretrained(
        student.model_dir, local_files_only=True
    ).eval()
    assert type(model).__name__ == "BertForTokenClassification"
    assert hf.arch_of(model.config) == SMALL
    tokenizer = AutoTokenizer.from_pretrained(student.model_dir, local_files_only=True)
    right, count = 0, 0
    for example in words.dev:
        assert example.words is not None and isinstance(example.label, tuple)
        given = tokenizer(list(example.words), is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            best = model(**given).logits[0].argmax(-1).tolist()
        for i, label in enumerate(example.label):
            right += best[given.word_ids().index(i)] == label
            count += 1
    assert right / count == pytest.approx(student.score.metrics["word_accuracy"])
    assert tagger.finish(SMALL) == student


def test_words_by_blocks_and_skeletons(tagger: Trainer) -> None:
    blocks = Arch.parse("H24 D8 2+24 0+40")
    for arch in (SMALL, blocks):
        folder = tagger.skeleton(arch)
        kind = json.loads((folder / "config.json").read_text())["architectures"][0]
        assert kind.endswith("BertForTokenClassification")
        assert type(tagger.blank(arch)).__name__ == kind
    assert 0 < tagger.worth(blocks) < 1


def test_a_student_of_several_labels_is_a_standard_directory(
    labeller: Trainer, several: TextData
) -> None:
    teacher = labeller.teacher()
    assert teacher.score.primary == "micro_f1" and teacher.score.value > 0.9
    student = labeller.finish(SMALL)
    assert student.score.value > 0.85
    model = AutoModelForSequenceClassification.from_pretrained(
        student.model_dir, local_files_only=True
    ).eval()
    assert model.config.problem_type == "multi_label_classification"
    tokenizer = AutoTokenizer.from_pretrained(student.model_dir, local_files_only=True)
    exact = 0
    for example in several.dev:
        with torch.no_grad():
            shares = model(**tokenizer(example.text, return_tensors="pt")).logits[0].sigmoid()
        exact += tuple(i for i in range(3) if shares[i] >= 0.5) == example.label
    assert exact / len(several.dev) == pytest.approx(student.score.metrics["exact_match"])
    watch = Watch()
    again = Trainer(teacher.model_dir, several, labeller.work / "again", LONGER, watch).teacher()
    assert again.score == teacher.score and not watch.steps


def test_a_killed_run_of_words_gives_the_same_student(
    tagger: Trainer, tiny: Path, words: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stage = tagger.finish(SMALL), f"distil {SMALL}"
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        Trainer(tiny, words, tmp_path, ASKED, Watch(stage, 20)).finish(SMALL)
    watch = Watch()
    again = Trainer(tiny, words, tmp_path, ASKED, watch).finish(SMALL)
    assert again.score == whole.score and 0 < watch.steps[stage] < 45
    one, two = (
        hf.load_classifier(s.model_dir, words.labels, head=words.task.head) for s in (whole, again)
    )
    assert all(torch.equal(x, two.state_dict()[name]) for name, x in one.state_dict().items())


def test_copies_and_texts_without_labels_teach_words(
    tiny: Path, words: TextData, tmp_path: Path
) -> None:
    few = replace(words, train=words.train[:30], dev=words.dev[:10])
    texts = tuple(Example(f"the {word}  plot", None, None) for word in GOOD)
    options = replace(ASKED, augment=2, teacher_epochs=1, final_epochs=1)
    trainer = Trainer(tiny, few, tmp_path, options, Watch(), unlabelled=texts)
    data = trainer._final_set()
    assert data.words is not None and len(data.words) == len(data) > 30 + len(texts) + 20
    labelled = sum(len(e.words or ()) for e in few.train)
    assert (data.labels[:labelled] >= 0).all() and (data.labels[labelled:] == -100).all()
    assert [x.tolist() for x in data.words[-5:]] == [[1, 2, 3]] * 5
    trainer.finish(SMALL)


RECIPE = TeacherRecipe(
    held=12, batch=16, rates=(1e-3, 3e-3), trial=1, epochs=3, patience=3, head=4, whole=True
)


@pytest.mark.parametrize("kind", ["words", "several"])
def test_the_recipe_of_a_teacher(
    kind: str, tiny: Path, tmp_path: Path, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Head first, a race on held-out sentences, and all of them in the end."""
    data: TextData = request.getfixturevalue(kind)
    few = replace(data, train=data.train[:60], dev=data.dev[:20])
    monkeypatch.setattr(teaching, "recipe_for", lambda *facts: RECIPE)
    options = replace(ASKED, teacher_epochs=None, teacher_lr=None)
    watch = Watch()
    Trainer(tiny, few, tmp_path, options, watch).teacher()
    facts = json.loads((tmp_path / "teacher.json").read_text())["recipe"]
    assert set(facts["raced"]) == {"0.001", "0.003"}
    assert set(facts["held_out"]) == set(few.task.metric_names(few.labels))
    assert watch.steps["teacher's head"] and watch.steps["teacher, on all examples"]
    assert watch.steps["teacher, trying rate 0.001"] == 3  # 48 sentences in batches of 16


def test_teachers_of_another_task(tagger: Trainer, several: TextData, tmp_path: Path) -> None:
    tuned = tagger.teacher().model_dir
    with pytest.raises(InputError, match="names BertForTokenClassification, which is for token-cl"):
        Trainer(tuned, several, tmp_path, ASKED, Watch())
    with pytest.raises(InputError, match=r"'accuracy' is not one of micro_f1, .* \(3 labels, any"):
        Trainer(tagger.source, several, tmp_path, replace(ASKED, metric="accuracy"), Watch())
