"""Students that learn a teacher's vectors of texts, against Sentence-Transformers and formulas."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats
from sentence_transformers import SentenceTransformer
from test_trainer import OPTIONS, SMALL, Watch
from tiny_bert import save_sentence_model, save_tiny, write_several, write_texts

from canao.defaults import silent
from canao.errors import InputError, UnsupportedError
from canao.model import hf
from canao.model.arch import Arch
from canao.model.embedder import Embedder, Vectors, head_of_directory, load_embedder
from canao.train.data import Example, TextData, load_data
from canao.train.distillation.distill import distill
from canao.train.distillation.signals import Pairing
from canao.train.distillation.targets import TeacherTargets
from canao.train.engine.batches import collate, encode, logits_of
from canao.train.engine.loop import TrainingSchedule
from canao.train.inheritance.contributions import contributions
from canao.train.inheritance.inherit import inherit, keep
from canao.train.metrics import check_metric, score
from canao.train.task_names import VECTORS
from canao.train.tasks.vectors import cosines
from canao.train.teacher.finetune import predict
from canao.train.trainer import Trainer
from tests.oracle import SAME, SHALLOW, assert_close

ASKED = replace(OPTIONS, teacher_epochs=None, teacher_lr=None, quick_steps=10)


@pytest.fixture(scope="module")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sentence_model(tmp_path_factory.mktemp("sentence"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> TextData:
    return load_data(write_texts(tmp_path_factory.mktemp("texts")), VECTORS)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> TextData:
    return load_data(write_texts(tmp_path_factory.mktemp("pairs"), scores=True), VECTORS)


def vectors(folder: Path, said: list[str]) -> np.ndarray:
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    found: np.ndarray = model.encode(said, show_progress_bar=False)
    return found


# Data.


def test_lines_of_text(texts: TextData, tmp_path: Path) -> None:
    assert (texts.kind, texts.columns, texts.labels) == (VECTORS, ("text",), ())
    assert (len(texts.train), len(texts.dev)) == (160, 30)
    assert texts.train[0].label is None and texts.train[0].pair is None
    assert "'text': texts, whose vectors are compared with the teacher's" in texts.told
    (tmp_path / "a.txt").write_text("one text\n" * 10 + "two\n" * 10)
    held = load_data(tmp_path / "a.txt", VECTORS)
    assert (len(held.train), len(held.dev)) == (18, 2)
    table = tmp_path / "a.tsv"
    table.write_text("id\ttext\tlabel\n1\ta b\t0\n2\tc\t1\n")
    found = load_data(table, VECTORS, split=False)
    assert [e.text for e in found.dev] == ["a b", "c"] and found.label_column == ""
    assert "'label' (no label of this file is used)" in "\n".join(found.told)


def test_pairs_with_scores(pairs: TextData) -> None:
    assert pairs.columns == ("sentence1", "sentence2") and pairs.label_column == "label"
    assert isinstance(pairs.dev[0].label, float) and pairs.dev[0].pair is not None
    single = pairs.task.inputs(pairs.dev)
    assert len(single) == 60 and single[1] == Example(pairs.dev[0].pair or "", None, None)
    assert "'sentence1' and 'sentence2': pairs with scores, by which" in "\n".join(pairs.told)


def test_texts_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "a.tsv"
    file.write_text("more\tlabel\nx\t1\n")
    with pytest.raises(InputError, match="no text column among more, label"):
        load_data(file, VECTORS)
    file.write_text("text\tlabel\nx\t1\ny\t2\n")
    with pytest.raises(InputError, match="--label-column label is of a single text"):
        load_data(file, VECTORS, label_column="label")
    with pytest.raises(InputError, match="--unlabelled -1: no labels are read"):
        load_data(file, VECTORS, unlabelled="-1")
    with pytest.raises(InputError, match=r"extension '.txt' is not .tsv, .csv, .jsonl"):
        load_data(write_texts(tmp_path / "t"), "text-classification")


# The model.


@pytest.mark.parametrize(("mode", "dense"), [("mean", 0), ("cls", 0), ("mean", 20)])
def test_a_teacher_is_that_of_sentence_transformers(
    mode: str, dense: int, tmp_path: Path, texts: TextData
) -> None:
    folder = save_sentence_model(tmp_path, mode, dense)
    head = head_of_directory(folder)
    assert head == Vectors("SentenceEmbedding", None, mode, dense or 32, not dense, 48)
    model, said = load_embedder(folder), [e.text for e in texts.dev]
    data = encode(hf.load_tokenizer(folder), texts.dev, 48, 2, texts.task)
    with torch.no_grad():
        found = logits_of(model, collate(data, range(30))).numpy()
    if not dense:
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert_close(found, vectors(folder, said), tolerance=SHALLOW)
    assert model.maps == bool(dense)
    hf.save_model(model, hf.load_tokenizer(folder), tmp_path / "again")
    assert_close(vectors(tmp_path / "again", said), vectors(folder, said), tolerance=SAME)
    assert head_of_directory(tmp_path / "again") == head


def test_teachers_without_vectors_to_learn(tmp_path: Path, sentence: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"no modules.json, so that nobody knows"):
        head_of_directory(save_tiny(tmp_path / "plain"))
    other = save_sentence_model(tmp_path / "other", "max")
    with pytest.raises(UnsupportedError, match="learn vectors of the mean or of the first token"):
        head_of_directory(other)
    lower = save_sentence_model(tmp_path / "lower")
    file = lower / "config_sentence_transformers.json"
    settings = json.loads(file.read_text()) | {
        "prompts": {"query": "find: "}, "default_prompt_name": "query",
    }  # fmt: skip
    file.write_text(json.dumps(settings))
    with pytest.raises(UnsupportedError, match="or a prompt before them, which students would not"):
        head_of_directory(lower)


def test_modules_in_another_order_are_refused(tmp_path: Path) -> None:
    """A map of scaled vectors points elsewhere than the scaled vector of a map."""
    folder = save_sentence_model(tmp_path, "mean", 20)
    file = folder / "modules.json"
    listed = json.loads(file.read_text())
    scaled = {"path": "3_Normalize", "type": "sentence_transformers.models.Normalize"}
    for order in ([0, 1, 2, -1], [0, 1, -1, 2]):
        modules = [scaled if i < 0 else listed[i] for i in order]
        file.write_text(json.dumps([m | {"idx": i, "name": str(i)} for i, m in enumerate(modules)]))
        if order[-1] < 0:
            assert head_of_directory(folder).normalized
        else:
            with pytest.raises(UnsupportedError, match="with one plain Dense at most"):
                head_of_directory(folder)


def test_a_map_of_another_width_is_refused(tmp_path: Path) -> None:
    folder = save_sentence_model(tmp_path, "mean", 20)
    place = next(folder.glob("*_Dense"))
    held = {"linear.weight": torch.zeros(20, 16), "linear.bias": torch.zeros(20)}
    save_file(held, place / "model.safetensors")
    settings = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(settings | {"in_features": 16}))
    with pytest.raises(InputError, match=r"reads 16 numbers, and the model gives 32"):
        head_of_directory(folder)


def test_texts_are_judged_as_long_as_a_library_reads_them(
    sentence: Path, tmp_path: Path
) -> None:
    """The teacher's vectors, which are right, are not of texts cut to the length of training."""
    (tmp_path / "texts.txt").write_text("the film was a plot and cast it story of good\n" * 40)
    texts = load_data(tmp_path / "texts.txt", VECTORS)
    short = replace(ASKED, max_length=8)
    trainer = Trainer(sentence, texts, tmp_path / "w", short, Watch())
    long = Trainer(sentence, texts, tmp_path / "w2", ASKED, Watch())
    assert trainer.judged().dev[0].label == long.judged().dev[0].label
    with pytest.raises(InputError, match="at most 48 tokens, max_length is 64"):
        Trainer(sentence, texts, tmp_path / "w3", replace(ASKED, max_length=64), Watch())


@pytest.mark.parametrize("shape", ["L2 H24 A3 F32", "H24 D8 2+24 0+40"])
def test_a_student_inherits_a_map_into_the_teachers_dimensions(
    shape: str, sentence: Path, texts: TextData
) -> None:
    teacher = load_embedder(sentence)
    own, arch = hf.arch_of(teacher.config), Arch.parse(shape)
    data = encode(hf.load_tokenizer(sentence), texts.train, 48, 2, texts.task)
    importance = contributions(teacher, data)
    same = inherit(teacher, own, keep(own, own, importance), data)
    batch = collate(data, range(16))
    with torch.no_grad():
        wanted = logits_of(teacher, batch)
        assert torch.equal(logits_of(same, batch), wanted)
        kept = keep(own, arch, importance)
        near = [logits_of(inherit(teacher, arch, kept, x), batch) for x in (None, data)]
    off = [float(texts.task.teacher_loss(x, wanted)) for x in near]
    assert near[0].shape == (16, 32) and off[1] < 0.5 * off[0]


# Losses and scores.


def test_the_loss_by_hand(texts: TextData) -> None:
    draw = np.random.default_rng(0)
    own, wanted = draw.normal(size=(2, 7, 5))
    cosine = (own * wanted).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(wanted, axis=1)
    found = texts.task.teacher_loss(torch.tensor(own), torch.tensor(wanted))
    assert float(found) == pytest.approx((2 - 2 * cosine).mean())


def test_scores(texts: TextData, pairs: TextData) -> None:
    draw = np.random.default_rng(1)
    found = draw.normal(size=(60, 8))
    unit = found / np.linalg.norm(found, axis=1, keepdims=True)
    alike = (unit[::2] * unit[1::2]).sum(1)
    truth = [e.label for e in pairs.dev]
    got = score(found, pairs)
    assert got.primary == "spearmanr" and got.metrics == pytest.approx({
        "spearmanr": stats.spearmanr(alike, truth)[0], "pearson": stats.pearsonr(alike, truth)[0],
    })  # fmt: skip
    wanted = draw.normal(size=(30, 8))
    judged = replace(texts, dev=tuple(
        replace(e, label=tuple(v)) for e, v in zip(texts.dev, wanted.tolist(), strict=True)
    ))  # fmt: skip
    cosine = (unit[:30] * wanted).sum(1) / np.linalg.norm(wanted, axis=1)
    got = score(found[:30], judged)
    assert got.metrics == {"cosine": pytest.approx(cosine.mean())}
    with pytest.raises(InputError, match=r"'accuracy' is not one of cosine \(vectors\)"):
        check_metric("accuracy", texts)


# Training.


def test_a_student_is_a_directory_of_sentence_transformers(
    sentence: Path, texts: TextData, tmp_path: Path
) -> None:
    trainer = Trainer(sentence, texts, tmp_path, ASKED, Watch())
    teacher = trainer.teacher()
    assert teacher.score.metrics == {"cosine": pytest.approx(1.0)}
    assert not trainer.progress.steps, "a teacher is as it comes"
    said = [e.text for e in texts.dev]
    assert_close(vectors(teacher.model_dir, said), vectors(sentence, said), tolerance=SAME)
    first = trainer.proxy_score(SMALL)
    student = trainer.finish(SMALL)
    assert student.score.value >= first.value > 0.9
    own = vectors(student.model_dir, said)
    assert own.shape == (30, 32)
    cosine = (own * vectors(sentence, said)).sum(1).mean()
    assert cosine == pytest.approx(student.score.value, abs=1e-5)
    watch = Watch()
    again = Trainer(sentence, texts, tmp_path, ASKED, watch)
    assert again.finish(SMALL) == student and again.teacher() == teacher and not watch.steps
    # A file of a module is a file of the result.
    (student.model_dir / "2_Dense" / "model.safetensors").write_bytes(b"damaged")
    Trainer(sentence, texts, tmp_path, ASKED, watch).finish(SMALL)
    assert watch.steps[f"distil {SMALL}"]


def test_distilling_brings_vectors_to_the_teachers(sentence: Path, texts: TextData) -> None:
    """A student of random weights, whose vectors have nothing to do with the teacher's."""
    teacher = load_embedder(sentence)
    data = encode(hf.load_tokenizer(sentence), texts.train, 48, 2, texts.task)
    torch.manual_seed(0)
    config = hf.student_config(teacher.config, SMALL)
    student = hf.build_classifier(config, teacher.head).eval()
    pairing = Pairing.of(student, teacher, (0, 2), torch.arange(24), relation_heads=4)
    targets = TeacherTargets(teacher, data)
    targets.prepare((), silent)
    wanted = predict(teacher, data)

    def alike() -> float:
        return float(cosines(predict(student, data), wanted).mean())

    assert abs(alike()) < 0.5
    schedule = TrainingSchedule(epochs=12, batch=16, lr=3e-3)
    distill(student, targets, pairing, data, schedule, silent, {"logits": 1.0, "labels": 0.5})
    assert alike() > 0.95


def test_scores_of_pairs_choose_the_epoch(
    sentence: Path, pairs: TextData, tmp_path: Path
) -> None:
    trainer = Trainer(sentence, pairs, tmp_path, ASKED, Watch())
    flat = [text for e in pairs.dev for text in (e.text, e.pair or "")]

    def spearman(folder: Path) -> float:
        found = vectors(folder, flat)
        alike = (found[::2] * found[1::2]).sum(1)
        return float(stats.spearmanr(alike, [e.label for e in pairs.dev])[0])

    assert trainer.teacher().score.value == pytest.approx(spearman(sentence), abs=1e-4)
    student = trainer.finish(SMALL)
    assert student.score.primary == "spearmanr"
    assert student.score.value == pytest.approx(spearman(student.model_dir), abs=1e-4)
    assert len(trainer.texts.train_set()) == 320


def test_skeletons_kernels_and_blocks(sentence: Path, texts: TextData, tmp_path: Path) -> None:
    trainer = Trainer(sentence, texts, tmp_path, ASKED, Watch())
    for arch in (SMALL, Arch.parse("H24 D8 2+24 0+40")):
        folder = trainer.skeleton(arch)
        assert (folder / "2_Dense" / "model.safetensors").is_file()
        assert "id2label" not in json.loads((folder / "config.json").read_text())
        assert isinstance(load_embedder(folder), Embedder)
        assert not isinstance(trainer.blank(arch), Embedder)
    assert trainer.errors().heads.shape == (3, 5)


def test_options_of_labels(sentence: Path, texts: TextData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="teacher of a sentence-embedding is taken as it comes"):
        Trainer(sentence, texts, tmp_path, replace(ASKED, teacher_epochs=2), Watch())
    with pytest.raises(InputError, match="losses are labels=1, and sentence-embedding has no lab"):
        Trainer(sentence, texts, tmp_path, replace(ASKED, losses="labels=1"), Watch())


def test_teachers_of_another_kind(
    tiny: Path, texts: TextData, sentence: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=r"no modules.json, so that nobody knows"):
        Trainer(tiny, texts, tmp_path, ASKED, Watch())
    # For another task, the encoder is what counts.
    several = load_data(write_several(tmp_path / "several", 40, 10))
    Trainer(sentence, several, tmp_path / "w", ASKED, Watch())
