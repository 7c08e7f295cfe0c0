"""What a task is to training, against Transformers, scikit-learn, and formulas written out here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from tiny_bert import TAGS, write_several, write_words
from transformers import AutoTokenizer, PreTrainedModel

from canao.defaults import silent
from canao.errors import InputError
from canao.model import hf
from canao.model.arch import Arch
from canao.model.heads import CLASS_OF_TOKEN, LABELS_OF_TEXT, head_of, require_fitting
from canao.train.data import Example, TextData, load_data
from canao.train.distillation.losses import LOSSES
from canao.train.distillation.signals import Pairing, Seen
from canao.train.engine import loop
from canao.train.engine.batches import Batch, Encoded, collate, encode, logits_of
from canao.train.inheritance.importance import measure_importance
from canao.train.inheritance.inherit import inherit, keep
from canao.train.metrics import check_metric, metric_names, score
from canao.train.task_names import SEVERAL, TASKS, WORDS
from canao.train.tasks import task_named
from canao.train.tasks.task import TEMPERATURE
from canao.train.teacher.finetune import finetune, label_loss, predict
from canao.train.teacher.head import fit_head

SMALL = Arch.uniform(2, 24, 3, 32)
LONG = "good the bad film " * 20  # 80 words of a token each


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> TextData:
    return load_data(write_words(tmp_path_factory.mktemp("words")))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> TextData:
    return load_data(write_several(tmp_path_factory.mktemp("several")))


def encoded(tiny: Path, data: TextData, examples: tuple[Example, ...] | None = None) -> Encoded:
    own = data.train if examples is None else examples
    return encode(hf.load_tokenizer(tiny), own, 32, 2, data.task, data.labels)


def fresh(tiny: Path, data: TextData, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = hf.load_classifier(tiny, data.labels, head=data.task.head)
    with torch.no_grad():
        model.classifier.weight.normal_()
    return model


def test_each_name_has_its_task() -> None:
    assert [task_named(name).name for name in TASKS] == list(TASKS)
    assert task_named(WORDS).head == CLASS_OF_TOKEN and task_named(WORDS).of_words
    assert task_named(SEVERAL).head == LABELS_OF_TEXT and not task_named(SEVERAL).of_words


# Words.


def by_transformers(tiny: Path, model: PreTrainedModel, example: Example) -> tuple[float, Batch]:
    """The loss that Transformers gives of a sentence whose words are given one by one, and how
    many words had a part in it."""
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    given = tokenizer(
        list(example.words or ()), is_split_into_words=True, return_tensors="pt", truncation=True,
        max_length=32,
    )  # fmt: skip
    places, seen = given.word_ids(), set()
    labels = []
    for place in places:
        known = place is not None and place not in seen
        labels.append(example.label[place] if known else -100)  # type: ignore[index]
        seen.add(place)
    with torch.no_grad():
        loss = float(model(**given, labels=torch.tensor([labels])).loss)
    return loss, sum(label != -100 for label in labels)  # type: ignore[return-value]


def test_the_loss_of_words_is_that_of_transformers(tiny: Path, words: TextData) -> None:
    """Labels are on the first token of each word; a sentence that is too long loses its end."""
    text = LONG.split()
    long = Example(" ".join(text), None, tuple(i % 4 for i in range(len(text))), tuple(text))
    examples, model = (*words.train[:6], long), fresh(tiny, words).eval()
    rows = [by_transformers(tiny, model, e) for e in examples]
    assert rows[-1][1] == 30 and any("-" in e.text for e in examples)
    wanted = sum(loss * count for loss, count in rows) / sum(count for _, count in rows)
    batch = collate(encoded(tiny, words, examples), range(7))
    with torch.no_grad():
        found = label_loss(logits_of(model, batch), batch.labels, batch.task)
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    assert len(batch.labels) == sum(count for _, count in rows)


def test_what_is_predicted_of_words(tiny: Path, words: TextData) -> None:
    """Each word has the best label of its first token; none without a token, or beyond the end."""
    hidden = "\u200b"  # to BERT's normaliser a control character
    text = (*LONG.split(), hidden, "good")
    odd = Example(" ".join(text), None, (3,) * len(text), text)
    short = Example(f"good {hidden} bad", None, (1, 3, 0), ("good", hidden, "bad"))
    data, model = encoded(tiny, words, (odd, short, *words.dev)), fresh(tiny, words)
    found = predict(model, data)
    assert len(found) == len(text) + 3 + sum(len(e.words or ()) for e in words.dev)
    assert set(found[30 : len(text)]) == {-1} and -1 not in found[:30]
    assert found[len(text) + 1] == -1 and -1 not in found[len(text) + 3 :]
    tokenizer, wanted = AutoTokenizer.from_pretrained(tiny), []
    for example in words.dev:
        given = tokenizer(list(example.words or ()), is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            best = model(**given).logits[0].argmax(-1).tolist()
        wanted += [best[given.word_ids().index(i)] for i in range(len(example.words or ()))]
    assert found[len(text) + 3 :].tolist() == wanted


def test_scores_of_words(words: TextData) -> None:
    names = words.labels
    assert names == TAGS == ("B-bad", "B-good", "I-good", "O")
    example = Example("a b c d", None, (1, 2, 3, 0), ("a", "b", "c", "d"))
    data = TextData("d", (), (example, example), names, ("tokens",), kind=WORDS)
    assert metric_names(data) == (
        "entity_f1", "entity_precision", "entity_recall", "word_accuracy"
    )
    # Of 4 entities, one is found whole; two others are thought to be there.
    found = score(np.array([1, 2, 3, -1, 1, 3, 0, -1]), data)
    assert found.primary == "entity_f1" and found.metrics == {
        "word_accuracy": 0.5, "entity_precision": pytest.approx(1 / 3),
        "entity_recall": pytest.approx(1 / 4), "entity_f1": pytest.approx(2 / 7),
    }  # fmt: skip
    speech = TextData("d", (), (Example("a b", None, (0, 1), ("a", "b")),), ("N", "V"), ("tokens",),
                      kind=WORDS)  # fmt: skip
    assert score(np.array([0, 0]), speech).metrics == {"word_accuracy": 0.5}
    with pytest.raises(InputError, match=r"'f1' is not one of word_accuracy \(2 labels of words\)"):
        check_metric("f1", speech)
    with pytest.raises(InputError, match=r"shape \(2,\), dev set has \(8,\)"):
        score(np.array([1, 1]), data)


def test_losses_of_the_teacher_are_of_words(tiny: Path, words: TextData) -> None:
    batch = collate(encoded(tiny, words), range(5))
    draw = torch.Generator().manual_seed(0)
    own, wanted = (torch.randn(len(batch.labels), 4, generator=draw) for _ in range(2))
    found = LOSSES["logits"].value(Seen(own, {}), Seen(wanted, {}), batch, None)  # type: ignore[arg-type]

    def share(x: torch.Tensor) -> np.ndarray:
        e = np.exp(x.numpy().astype(np.float64) / TEMPERATURE)
        return e / e.sum(1, keepdims=True)

    p, q = share(wanted), share(own)
    each = (p * np.log(p / q)).sum(1) * TEMPERATURE**2
    assert float(found) == pytest.approx(each.mean(), rel=1e-5)
    assert len(each) == sum(len(e.words or ()) for e in words.train[:5])


def test_words_of_texts_without_labels(tiny: Path, words: TextData) -> None:
    """They have no loss of labels, and one of the teacher; labels count as in a batch of their
    own words by the share of words that have one."""
    bare = Example("the  good-film was great", None, words.no_label)
    data = encoded(tiny, words, words.train[:3]).joined(encoded(tiny, words, (bare,)))
    assert [x.tolist() for x in data.words or ()][-1] == [1, 2, 5, 6]
    batch, model = collate(data, range(4)), fresh(tiny, words).eval()
    assert batch.labels[-4:].tolist() == [-100] * 4
    with torch.no_grad():
        seen = Seen(logits_of(model, batch), {})
        alone = collate(data, range(3))
        wanted = label_loss(logits_of(model, alone), alone.labels, alone.task)
        found = LOSSES["labels"].value(seen, seen, batch, None)  # type: ignore[arg-type]
        share = len(alone.labels) / len(batch.labels)
        assert float(found) == pytest.approx(float(wanted) * share, rel=1e-5)
        none = collate(data, [3])
        seen = Seen(logits_of(model, none), {})
        assert float(LOSSES["labels"].value(seen, seen, none, None)) == 0.0  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["words", "several"])
def test_a_batch_in_parts_has_the_same_gradients(
    kind: str, tiny: Path, request: pytest.FixtureRequest
) -> None:
    """Sentences have other numbers of words, so that parts of as many sentences weigh differently.
    """
    task: TextData = request.getfixturevalue(kind)
    data, model = encoded(tiny, task), fresh(tiny, task).eval()
    run = loop.Loop(
        model, data, loop.TrainingSchedule(dtype="float32"),
        lambda batch: label_loss(logits_of(model, batch), batch.labels, batch.task),
    )  # fmt: skip
    found = []
    for parts in (1, 3):
        run.parts = parts
        run.optimizer.zero_grad(set_to_none=True)
        value = run._in_parts(range(8))
        found.append((value, model.classifier.weight.grad.clone()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)


def test_a_student_inherits_what_labels_words(tiny: Path, words: TextData) -> None:
    data, teacher = encoded(tiny, words), fresh(tiny, words)
    finetune(teacher, data, loop.TrainingSchedule(epochs=3, batch=16, lr=2e-3), silent)
    own = hf.arch_of(teacher.config)
    importance = measure_importance(teacher, data)
    same = inherit(teacher, own, keep(own, own, importance), data)
    assert type(same).__name__ == "BertForTokenClassification" and head_of(same) == CLASS_OF_TOKEN
    batch = collate(data, range(8))
    with torch.no_grad():
        assert torch.equal(logits_of(same, batch), logits_of(teacher, batch))
    kept = keep(own, SMALL, importance)
    bare, fitted = inherit(teacher, SMALL, kept, None), inherit(teacher, SMALL, kept, data)
    assert torch.equal(bare.classifier.weight, teacher.classifier.weight[:, kept.hidden])
    with torch.no_grad():
        wanted, *near = (logits_of(m.eval(), batch) for m in (teacher, bare, fitted))
    off = [float((logits - wanted).square().mean()) for logits in near]
    assert off[1] < 0.7 * off[0]
    blocks = Arch.parse("H24 D8 2+24 0+40")
    other = inherit(teacher, blocks, keep(own, blocks, importance), data)
    assert type(other).__name__ == "BlockBertForTokenClassification"
    Pairing.of(other, teacher, (0, 2), kept.hidden, relation_heads=4)


@pytest.mark.parametrize("kind", ["words", "several"])
def test_the_head_is_trained_alone(
    kind: str, tiny: Path, request: pytest.FixtureRequest
) -> None:
    task: TextData = request.getfixturevalue(kind)
    data = encoded(tiny, task)
    model = hf.load_classifier(tiny, task.labels, head=task.task.head)
    body = {n: p.clone() for n, p in model.bert.encoder.state_dict().items()}

    def loss() -> float:
        batch = collate(data, range(len(data)))
        with torch.no_grad():
            return float(label_loss(logits_of(model, batch), batch.labels, batch.task))

    before = loss()
    steps: list[tuple[int, int, str]] = []
    fit_head(model, data, 80, 0, lambda *row: steps.append(row))
    assert loss() < 0.85 * before
    # As many steps as there would be for so many texts, give or take what is left over.
    assert abs(steps[-1][1] - 80 * -(-len(data) // 32)) <= 80
    for name, kept in model.bert.encoder.state_dict().items():
        assert torch.equal(kept, body[name]), name


# Several labels.


def test_the_loss_of_several_labels_is_that_of_transformers(tiny: Path, several: TextData) -> None:
    model = fresh(tiny, several).eval()
    batch = collate(encoded(tiny, several), range(40))
    assert several.labels == ("blame", "plot", "praise") and model.config.problem_type == (
        "multi_label_classification"
    )
    truth = [[float(i in (e.label or ())) for i in range(3)] for e in several.train[:40]]  # type: ignore[operator]
    assert batch.labels.tolist() == truth and [0.0] * 3 in truth and any(sum(t) > 1 for t in truth)
    with torch.no_grad():
        wanted = float(model(**batch.inputs, labels=torch.tensor(truth)).loss)
        found = float(label_loss(logits_of(model, batch), batch.labels, batch.task))
    assert found == pytest.approx(wanted, rel=1e-6)


def test_the_teachers_yes_and_no_by_hand(tiny: Path, several: TextData) -> None:
    draw = torch.Generator().manual_seed(0)
    own, wanted = (3 * torch.randn(7, 3, generator=draw) for _ in range(2))
    p, q = (1 / (1 + np.exp(-x.numpy().astype(np.float64) / TEMPERATURE)) for x in (wanted, own))
    apart = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    found = several.task.teacher_loss(own, wanted)
    assert float(found) == pytest.approx(apart.mean() * TEMPERATURE**2, rel=1e-5)
    assert float(several.task.teacher_loss(wanted, wanted)) == pytest.approx(0.0, abs=1e-6)


def test_scores_of_several_labels_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    names = tuple("abcde")
    for rare in (0.5, 0.1):
        truth, found = (draw.random((40, 5)) < rare for _ in range(2))
        truth[:, 4] = found[:, 4] = False  # a label that nobody has and nobody predicts
        dev = tuple(Example("t", None, tuple(np.flatnonzero(row).tolist())) for row in truth)
        got = score(found, TextData("d", (), dev, names, ("text",), kind=SEVERAL))
        assert got.primary == "micro_f1" and got.metrics == pytest.approx({
            "micro_f1": f1_score(truth, found, average="micro", zero_division=0),
            "macro_f1": f1_score(truth, found, average="macro", zero_division=0),
            "exact_match": accuracy_score(truth, found),
        })  # fmt: skip
    nothing = np.zeros((40, 5), bool)
    assert score(nothing, TextData("d", (), dev, names, ("t",), kind=SEVERAL)).value == 0.0


def test_predictions_have_a_probability_of_a_half(tiny: Path, several: TextData) -> None:
    model, data = fresh(tiny, several), encoded(tiny, several, several.dev)
    found = predict(model, data)
    assert found.dtype == bool and found.shape == (60, 3) and 0 < found.mean() < 1
    for i in (0, 7):
        with torch.no_grad():
            given = AutoTokenizer.from_pretrained(tiny)(several.dev[i].text, return_tensors="pt")
            shares = model(**given).logits[0].sigmoid()
        assert found[i].tolist() == (shares >= 0.5).tolist()


def test_texts_without_several_labels(tiny: Path, several: TextData) -> None:
    bare = Example("the good plot", None, several.no_label)
    data = encoded(tiny, several, (*several.train[:3], bare))
    batch, model = collate(data, range(4)), fresh(tiny, several).eval()
    known = several.task.known(batch.labels)
    assert known.tolist() == [True, True, True, False]
    with torch.no_grad():
        logits = logits_of(model, batch)
        seen = Seen(logits, {})
        wanted = label_loss(logits[:3], batch.labels[:3], batch.task) * 0.75
        found = LOSSES["labels"].value(seen, seen, batch, None)  # type: ignore[arg-type]
    assert float(found) == pytest.approx(float(wanted))


# Both.


def test_held_out_sentences_keep_the_rare_labels_in_training() -> None:
    sets = [(0,)] * 60 + [(0, 1)] * 30 + [()] * 9 + [(0, 1, 2)]
    for name in (WORDS, SEVERAL):
        strata = task_named(name).strata(sets)
        assert strata == [0] * 60 + [1] * 30 + [-1] * 9 + [2]


@pytest.mark.parametrize(
    ("names", "declared", "task", "message"),
    [
        (["BertForTokenClassification"], None, SEVERAL,
         "names BertForTokenClassification, which is for token-classification, and the task is "
         "multi-label-classification; give a teacher for that"),
        (["BertForSequenceClassification"], None, WORDS,
         "which is for text-classification, and the task is token-classification"),
        (["BertForSequenceClassification"], "single_label_classification", SEVERAL,
         "problem_type single_label_classification of the same labels, and the task is multi-la"),
        (["BertForSequenceClassification"], "multi_label_classification", "text-classification",
         "problem_type multi_label_classification of the same labels, and the task is text-cl"),
    ],
)  # fmt: skip
def test_teachers_that_contradict_the_task(
    names: list[str], declared: str | None, task: str, message: str, tiny: Path
) -> None:
    config = hf.load_config(tiny)
    hf.set_labels(config, ("a", "b"))
    config.architectures, config.problem_type = names, declared
    with pytest.raises(InputError, match=message):
        require_fitting(tiny, config, ("a", "b"), task_named(task).head, task)
    config.architectures, config.problem_type = ["BertModel"], None
    require_fitting(tiny, config, ("a", "b"), task_named(task).head, task)
    config.problem_type = declared
    require_fitting(tiny, config, ("other", "labels", "here"), task_named(task).head, task)


def test_a_teacher_is_known_by_what_its_scores_mean(
    tiny: Path, several: TextData, words: TextData, tmp_path: Path
) -> None:
    for data in (several, words):
        folder = tmp_path / data.kind
        assert not hf.is_fine_tuned(tiny, data.labels, head=data.task.head)
        model = fresh(tiny, data)
        hf.save_model(model, hf.load_tokenizer(tiny), folder)
        assert hf.is_fine_tuned(folder, data.labels, head=data.task.head)
        turned = hf.load_classifier(folder, data.labels[::-1], head=data.task.head)
        assert torch.equal(turned.classifier.weight, model.classifier.weight.flip(0))
    assert not hf.is_fine_tuned(tmp_path / SEVERAL, several.labels[:2], head=LABELS_OF_TEXT)
