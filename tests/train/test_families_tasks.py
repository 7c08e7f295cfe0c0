"""Teachers of every family with every head, in a supernet, and with a part of their vocabulary."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from test_trainer import OPTIONS
from tiny_bert import TAGS, write_several, write_texts, write_words
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from canao.compiler.pipeline import compile_model
from canao.defaults import silent
from canao.inference.compiled_model import CompiledModel
from canao.model import hf
from canao.model.blocks import BlockBertForTokenClassification
from canao.model.embedder import Embedder, load_embedder
from canao.model.families.parts import Attend, whole
from canao.model.heads import CLASS_OF_TOKEN, LABELS_OF_TEXT, VALUE_OF_TEXT
from canao.search.candidates.space import Space
from canao.train.data import TextData, load_data
from canao.train.engine.batches import Batch, Encoded, collate, encode, logits_of
from canao.train.inheritance.importance import measure_importance
from canao.train.inheritance.inherit import inherit, keep
from canao.train.options import TrainOptions
from canao.train.ranking.supernet import Supernet, drawn, smallest
from canao.train.task_names import VECTORS
from canao.train.teacher.finetune import label_loss, predict
from canao.train.trainer import Trainer
from tests import text_tokenizers
from tests.oracle import FLOAT32, OF_STATES, SHALLOW, assert_close
from tests.train.test_families import attend_in
from tests.train.tiny_families import FAMILIES, FULL, save_tiny_of, smaller, uneven

ALL = list(FAMILIES)
# ELECTRA twice: its students' embeddings differ. XLM-RoBERTa and CamemBERT are RoBERTa's modules.
EACH = ["distilbert", "roberta", "electra", "electra-wide", "mobilebert", "canao-bert"]
ASKED = replace(OPTIONS, teacher_epochs=6)
UNLABELLED = replace(OPTIONS, teacher_epochs=None, teacher_lr=None)


@cache
def folder(name: str) -> Path:
    return save_tiny_of(name, Path(mkdtemp(prefix=f"canao-{name}-")))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> TextData:
    return load_data(write_words(tmp_path_factory.mktemp("words")))


@cache
def tagger(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return hf.load_classifier(folder(name), TAGS, head=CLASS_OF_TOKEN)


def encoded(name: str, data: TextData) -> Encoded:
    takes = hf.takes(hf.load_config(folder(name)))
    return encode(
        hf.load_tokenizer(folder(name)), data.train, 32, takes.types, data.task, data.labels,
        takes.tokens,
    )  # fmt: skip


def states(model: PreTrainedModel, batch: Batch, attend: Attend) -> Tensor:
    """What the last layer gives, by the roles of its modules: [tokens, hidden]."""
    parts = hf.parts_of(model)
    state = parts.embeddings(batch.ids, batch.types)[batch.padding_mask.bool()]
    for layer in parts.layers:
        state = layer.inside(state, attend).end
    return state


# Labels of words, sets of labels, values, vectors.


@pytest.mark.parametrize("name", ALL)
def test_a_head_of_words_is_known_by_its_role(name: str, words: TextData, tmp_path: Path) -> None:
    model, batch = tagger(name), collate(encoded(name, words), range(9))
    parts = hf.parts_of(model)
    assert parts.pooler is None and not parts.averages
    with torch.no_grad():
        found = parts.head(parts.pooled(states(model, batch, attend_in(batch))))
        want = model(**batch.inputs).logits[batch.padding_mask.bool()]
    assert_close(found, want, tolerance=SHALLOW, relative=OF_STATES)
    hf.save_model(model, hf.load_tokenizer(folder(name)), tmp_path / "t")
    given = tmp_path / "t", TAGS[::-1]
    assert hf.is_fine_tuned(*given, head=CLASS_OF_TOKEN)
    turned = hf.load_classifier(*given, head=CLASS_OF_TOKEN)
    assert torch.equal(hf.parts_of(turned).head.weight, parts.head.weight.flip(0))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [smaller, uneven])
def test_students_of_words_are_fitted_and_saved(
    name: str, shape: object, words: TextData, tmp_path: Path
) -> None:
    assert callable(shape)
    model, arch, data = tagger(name), shape(name), encoded(name, words)
    kept = keep(FULL[name], arch, measure_importance(model, data, examples=32))
    student, cut = inherit(model, arch, kept, data), inherit(model, arch, kept, None)
    own = type(model) if arch.is_uniform else BlockBertForTokenClassification
    assert type(student) is own and hf.arch_of(student.config) == arch
    hf.save_model(student, hf.load_tokenizer(folder(name)), tmp_path / "s")
    read = AutoModelForTokenClassification.from_pretrained(tmp_path / "s").eval()
    assert [read.config.id2label[i] for i in range(4)] == list(TAGS)
    other = collate(data, range(100, 140))
    with torch.no_grad():
        want, near, far, again = (logits_of(m, other) for m in (model, student, cut, read))
    assert torch.equal(again, near) and len(want) == len(other.labels)
    assert (near - want).square().mean() < 0.9 * (far - want).square().mean()


@pytest.mark.parametrize("name", ["distilbert", "electra", "mobilebert"])
def test_a_student_of_words_from_teacher_to_library(
    name: str, words: TextData, tmp_path: Path
) -> None:
    options = replace(ASKED, quantized_epochs=1, precision="int8")
    trainer = Trainer(folder(name), words, tmp_path / "w", options, silent)
    assert trainer.teacher().score.value > 0.3
    arch = smaller(name)
    assert 0 < trainer.worth(arch) < 1
    assert hf.parts_of(trainer.blank(arch)).pooler is None
    student = trainer.finish(arch)
    assert student.score.value > 0.2
    model = AutoModelForTokenClassification.from_pretrained(student.model_dir).eval()
    with CompiledModel(compile_model(student.model_dir, tmp_path / "out")) as library:
        ids = np.array([2, 6, 17, 9, 3], dtype=np.int32)
        given = [ids, np.zeros_like(ids)][: len(library.artifact.manifest["inputs"])]
        with torch.no_grad():
            want = model(torch.from_numpy(ids)[None].long()).logits[0].numpy()
        assert_close(library(*given), want)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("head", [LABELS_OF_TEXT, VALUE_OF_TEXT])
def test_what_scores_of_texts_mean_goes_to_students(
    name: str, head: object, tmp_path: Path
) -> None:
    labels = ("a", "b", "c") if head == LABELS_OF_TEXT else ()
    model = hf.load_classifier(folder(name), labels, head=head)
    hf.save_model(model, hf.load_tokenizer(folder(name)), tmp_path / "t")
    assert hf.is_fine_tuned(tmp_path / "t", labels, head=head)
    assert not hf.is_fine_tuned(tmp_path / "t", ("a", "b"), head=head)
    for arch in (smaller(name), uneven(name)):
        config = hf.student_config(model.config, arch)
        assert config.problem_type == head.problem and config.num_labels == max(1, len(labels))


def test_a_student_of_several_labels(tmp_path: Path) -> None:
    data = load_data(write_several(tmp_path / "several"))
    options = replace(OPTIONS, teacher_epochs=10)
    trainer = Trainer(folder("distilbert"), data, tmp_path / "w", options, silent)
    assert trainer.teacher().score.value > 0.7
    student = trainer.finish(smaller("distilbert"))
    model = AutoModelForSequenceClassification.from_pretrained(student.model_dir)
    assert model.config.problem_type == "multi_label_classification"


def save_sentence_of(plain: Path, place: Path) -> Path:
    """A teacher of a family with a pooling, as Sentence-Transformers saves it."""
    from sentence_transformers.sentence_transformer import modules

    parts = [modules.Transformer(str(plain), max_seq_length=48), modules.Pooling(32)]
    SentenceTransformer(modules=[*parts, modules.Normalize()], device="cpu").save(str(place / "m"))
    return place / "m"


def vectors(place: Path, texts: list[str]) -> np.ndarray:
    model = SentenceTransformer(str(place), device="cpu", local_files_only=True)
    found: np.ndarray = model.encode(texts, show_progress_bar=False)
    return found


@pytest.mark.parametrize("name", EACH)
def test_students_of_vectors(name: str, tmp_path: Path) -> None:
    """Inherited, saved, read by Sentence-Transformers and compiled, with the same vectors."""
    texts = load_data(write_texts(tmp_path / "texts"), VECTORS)
    place = save_sentence_of(folder(name), tmp_path)
    teacher = load_embedder(place)
    said = [e.text for e in texts.dev]
    trainer = Trainer(place, texts, tmp_path / "w", UNLABELLED, silent)
    assert trainer.teacher().score.value == pytest.approx(1)
    parts = hf.parts_of(teacher)
    assert parts.averages and parts.pooler is None
    found = predict(teacher, trainer.texts.encode(texts.dev))
    found = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert_close(found, vectors(place, said), tolerance=SHALLOW)
    first = trainer.skeleton(uneven(name))
    assert isinstance(load_embedder(first), Embedder)
    student = trainer.finish(smaller(name))
    own = vectors(student.model_dir, said)
    cosine = float((own * vectors(place, said)).sum(1).mean())
    assert cosine == pytest.approx(student.score.value, abs=FLOAT32) and cosine > 0.7
    with CompiledModel(compile_model(student.model_dir, tmp_path / "out")) as library:
        found = library.predict(said[:2])
    assert_close(found, own[:2])


# Supernets.


@cache
def classifier(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return hf.load_classifier(folder(name), ("neg", "pos"))


def supernet(name: str, data: Encoded) -> Supernet:
    importance = measure_importance(classifier(name), data, examples=32)
    return Supernet(
        copy.deepcopy(classifier(name)), lambda arch: keep(FULL[name], arch, importance)
    )


@pytest.mark.parametrize("name", EACH)
def test_a_supernets_student_is_what_is_inherited(name: str, task: TextData) -> None:
    """Its outputs, and gradients that reach what it holds of every half of its layers."""
    data = encoded(name, task)
    net, batch = supernet(name, data), collate(data, range(12))
    for arch in (FULL[name], smaller(name), uneven(name), smallest(FULL[name])):
        student = net.student(arch)
        with torch.no_grad():
            want = inherit(classifier(name), arch, net.keeps(arch), None)
            assert torch.equal(logits_of(student, batch), logits_of(want, batch))
        label_loss(logits_of(student, batch), batch.labels).backward()
        parts = hf.parts_of(net.model)
        for place, i in enumerate(net.keeps(arch).layers):
            attention, ffns = whole(parts.layers[i])
            block = arch.blocks[place]
            touched = [attention.query, attention.value, attention.output] * bool(block.heads)
            touched += [linear for ffn in ffns for linear in (ffn.up, ffn.down)] * bool(block.ffn)
            held = [m.weight.grad is not None and bool(m.weight.grad.any()) for m in touched]
            # Of MobileBERT's FFNs, a student may have no unit of some.
            assert all(held) or (len(ffns) > 1 and sum(held) >= len(held) - 2)
        assert parts.words.weight.grad is not None and parts.words.weight.grad.any()
        net.model.zero_grad()


@pytest.mark.parametrize("name", EACH)
def test_random_students_are_admitted(name: str, task: TextData) -> None:
    full, net = FULL[name], supernet(name, encoded(name, task))
    space = Space.of_teacher(full)
    archs = [smallest(full), *(drawn(full, Random(seed)) for seed in range(100))]
    for arch in archs:
        net.keeps(arch)  # refuses what is more than the teacher has
        most = space.heads(arch.hidden, arch.head_size)
        assert arch.heads <= most
    assert {8, 16, 24, 32} <= {arch.hidden for arch in archs}


@pytest.mark.parametrize("name", ["distilbert", "mobilebert"])
def test_a_supernet_is_trained(name: str, task: TextData, tmp_path: Path) -> None:
    options = replace(
        OPTIONS, ranker="supernet", supernet_steps=6, teacher_epochs=3,
        quick_steps=TrainOptions().quick_steps,
    )  # fmt: skip
    trainer = Trainer(folder(name), task, tmp_path, options, silent)
    before = copy.deepcopy(trainer._teacher_model()).state_dict()
    for arch in (smaller(name), uneven(name), FULL[name]):
        assert 0 < trainer.proxy_score(arch).value <= 1
    after = trainer.supernet().model.state_dict()
    changed = [key for key, weight in after.items() if not torch.equal(weight, before[key])]
    assert len(changed) > 0.9 * len(after) - 2


# A part of the vocabulary.


def save_byte_level(place: Path) -> Path:
    """A RoBERTa with a byte-level tokenizer."""
    text_tokenizers.save(place, "RobertaTokenizer")
    tokenizer = AutoTokenizer.from_pretrained(place)
    config = AutoConfig.for_model(
        "roberta", vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=3,
        num_attention_heads=4, intermediate_size=64, max_position_embeddings=66,
        type_vocab_size=1, pad_token_id=tokenizer.pad_token_id, initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(3)
    AutoModel.from_config(config).save_pretrained(place)
    return place


def test_a_pruned_roberta(task: TextData, tmp_path: Path) -> None:
    """Positions count from the padding token's id, which stays; plain Transformers come to the
    student's score."""
    few = replace(task, train=task.train[:160], dev=task.dev[:30])
    options = replace(
        OPTIONS, prune_vocabulary=True, vocabulary=0, max_length=64, teacher_epochs=4
    )  # fmt: skip
    place = save_byte_level(tmp_path / "m")
    trainer = Trainer(place, few, tmp_path / "w", options, silent)
    kept, before = trainer.vocabulary() or (0, 0)
    assert 256 < kept < before
    for arch in (smaller("roberta"), uneven("roberta")):
        student = trainer.finish(arch)
        model = AutoModelForSequenceClassification.from_pretrained(student.model_dir).eval()
        tokenizer = AutoTokenizer.from_pretrained(student.model_dir)
        assert model.config.vocab_size == len(tokenizer) == kept
        assert model.config.pad_token_id == tokenizer.pad_token_id == 1
        with torch.no_grad():
            said = [int(model(**tokenizer(e.text, return_tensors="pt")).logits.argmax())
                    for e in few.dev]  # fmt: skip
        right = [one == e.label for one, e in zip(said, few.dev, strict=True)]
        assert sum(right) / len(right) == pytest.approx(student.score.metrics["accuracy"])


def test_pruned_and_rounded_vectors(tmp_path: Path) -> None:
    """Sentence-Transformers reads a student that has a part of the rows, and was rounded."""
    texts = load_data(write_texts(tmp_path / "texts"), VECTORS)
    place = save_sentence_of(save_byte_level(tmp_path / "plain"), tmp_path)
    options = replace(
        UNLABELLED, prune_vocabulary=True, vocabulary=0, quantized_epochs=1, precision="int8"
    )  # fmt: skip
    trainer = Trainer(place, texts, tmp_path / "w", options, silent)
    kept, before = trainer.vocabulary() or (0, 0)
    assert kept < before
    for folder in (trainer.skeleton(FULL["roberta"]), trainer.finish(smaller("roberta")).model_dir):
        model = load_embedder(folder)
        assert hf.parts_of(model).words.num_embeddings == model.config.vocab_size == kept
        said = [e.text for e in texts.dev]
        cosine = float((vectors(folder, said) * vectors(place, said)).sum(1).mean())
        assert cosine > 0.8
    blank = trainer.blank(smaller("roberta"))
    assert blank.config.vocab_size == kept


@pytest.mark.parametrize("name", ["roberta", "mobilebert"])
def test_a_supernets_student_of_words(name: str, words: TextData) -> None:
    model, data = tagger(name), encoded(name, words)
    importance = measure_importance(model, data, examples=32)
    net = Supernet(copy.deepcopy(model), lambda arch: keep(FULL[name], arch, importance))
    student, batch = net.student(uneven(name)), collate(data, range(12))
    assert isinstance(student, BlockBertForTokenClassification)
    with torch.no_grad():
        want = inherit(model, uneven(name), net.keeps(uneven(name)), None)
        assert torch.equal(logits_of(student, batch), logits_of(want, batch))
    label_loss(logits_of(student, batch), batch.labels, batch.task).backward()
    gradient = hf.parts_of(net.model).head.weight.grad
    assert gradient is not None and bool(gradient.any())
