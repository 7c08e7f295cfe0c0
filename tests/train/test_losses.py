"""Each loss against its formula, written out here in NumPy's float64, example by example."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, PreTrainedModel

from canao.defaults import silent
from canao.errors import InputError
from canao.model import hf
from canao.model.arch import Arch, Block
from canao.train.data import NO_CLASS
from canao.train.distillation.losses import (
    LOSSES,
    relation_scores,
)
from canao.train.distillation.signals import (
    KEY,
    QUERY,
    STATES,
    VALUE,
    Pairing,
    Seen,
    Signal,
    observe,
)
from canao.train.distillation.targets import TeacherTargets
from canao.train.engine.batches import Batch, Encoded, collate
from canao.train.loss_names import OF_TASK, STAGED, WEIGHTS, canonical, parse_losses
from canao.train.options import DEFAULT_LOSSES, TrainOptions
from tests.oracle import HALF, assert_close

LENGTHS = (1, 7, 31)
TEACHER = Arch.uniform(3, 30, 5, 44)
# One with the teacher's number of heads, two with others, whose widths are no multiples of 7.
STUDENTS = (
    Arch.uniform(2, 20, 5, 24), Arch.uniform(2, 18, 3, 20), Arch.uniform(1, 8, 2, 12),
    Arch(18, 6, (Block(2, 20), Block(0, 9), Block(3, 0))),
)  # fmt: skip
LAYERS = {3: (0, 1, 2), 2: (0, 2), 1: (2,)}
RELATION_HEADS = 7


def bert(arch: Arch, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=40, max_position_embeddings=40, num_labels=3, initializer_range=0.6,
        num_hidden_layers=3, hidden_size=30, num_attention_heads=5,
    )  # fmt: skip
    return hf.build_classifier(hf.student_config(config, arch)).eval()


@pytest.fixture(scope="module")
def data() -> Encoded:
    draw = np.random.default_rng(0)
    ids = tuple(draw.integers(1, 40, n).astype(np.int32) for n in LENGTHS)
    types = tuple((np.arange(n) > n // 2).astype(np.int8) for n in LENGTHS)
    return Encoded(ids, types, np.array([2, 0, 1]), 0)


@pytest.fixture(scope="module")
def teacher() -> PreTrainedModel:
    return bert(TEACHER, 0)


class Case:
    """A student, its teacher, and what both make of each example by itself, without padding."""

    def __init__(self, teacher: PreTrainedModel, arch: Arch, data: Encoded, seed: int = 1) -> None:
        self.student, self.batch = bert(arch, seed), collate(data, range(len(data)))
        self.kept = torch.randperm(30, generator=torch.Generator().manual_seed(4))[: arch.hidden]
        self.arch, self.layers = arch, LAYERS[arch.layers]
        self.pairing = Pairing.of(
            self.student, teacher, self.layers, self.kept, RELATION_HEADS, relation_layer=2
        )
        alone = [collate(data, [i]) for i in range(len(data))]
        self.own = [self.alone(self.student, batch) for batch in alone]
        self.wanted = [self.alone(teacher, batch) for batch in alone]
        self.labels = data.labels
        every = [Signal(i, p) for i in range(3) for p in (STATES, QUERY, KEY, VALUE)]
        with torch.no_grad():
            own = [s for s in every if s.layer < arch.layers
                   and (s.part == STATES or arch.blocks[s.layer].heads)]  # fmt: skip
            self.seen = observe(self.student, self.batch, own)
            self.target = observe(teacher, self.batch, every)

    def alone(self, model: PreTrainedModel, batch: Batch) -> dict[str, np.ndarray]:
        """By Transformers' own account: logits, states after each layer, attention probabilities;
        vectors of queries, keys and values from their weights."""
        inputs = {name: x[:, : int(batch.padding_mask.sum())] for name, x in batch.inputs.items()}
        model.set_attn_implementation("eager")
        with torch.no_grad():
            out = model(**inputs, output_hidden_states=True, output_attentions=True)
        found, attentions = {"logits": out.logits[0]}, iter(out.attentions)
        for i, layer in enumerate(hf.parts_of(model).layers):
            before = out.hidden_states[i][0]
            found[f"{i} {STATES}"] = out.hidden_states[i + 1][0]
            if layer.attention is None:
                continue
            found[f"{i} a"] = next(attentions)[0]
            for part in (QUERY, KEY, VALUE):
                linear = getattr(layer.attention, part)
                found[f"{i} {part}"] = before @ linear.weight.T + linear.bias
        model.set_attn_implementation("sdpa")
        return {name: x.detach().double().numpy() for name, x in found.items()}

    def value(self, name: str, pairing: Pairing | None = None) -> float:
        pairing = pairing or self.pairing
        return float(LOSSES[name].value(self.seen, self.target, self.batch, pairing))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q) of the last axis, mean over the others."""
    return float((p * np.log(p / q)).sum(-1).mean())


def heads(x: np.ndarray, count: int) -> list[np.ndarray]:
    return np.array_split(x, count, axis=1)


def scores(found: dict[str, np.ndarray], layer: int, count: int) -> np.ndarray:
    pairs = zip(heads(found[f"{layer} query"], count), heads(found[f"{layer} key"], count),
                strict=True)  # fmt: skip
    return np.stack([q @ k.T / np.sqrt(q.shape[1]) for q, k in pairs])


def logits(case: Case) -> float:
    return float(np.mean([
        4 * divergence(softmax(t["logits"] / 2), softmax(s["logits"] / 2))
        for s, t in zip(case.own, case.wanted, strict=True)
    ]))  # fmt: skip


def labels(case: Case) -> float:
    picked = [softmax(s["logits"])[i] for s, i in zip(case.own, case.labels, strict=True)]
    return float(-np.log(picked).mean())


def hidden(case: Case) -> float:
    last = case.arch.layers - 1
    own = np.concatenate([s[f"{last} states"] for s in case.own])
    wanted = np.concatenate([t["2 states"][:, case.kept.numpy()] for t in case.wanted])
    return float(((own - wanted) ** 2).mean())


def attention(case: Case) -> float:
    values = []
    for s, t in zip(case.own, case.wanted, strict=True):
        for mine, theirs in enumerate(case.layers):
            count = case.arch.blocks[mine].heads
            if not count:
                continue
            own, wanted = scores(s, mine, count), scores(t, theirs, 5)
            if count != 5:
                own, wanted = own.mean(0), wanted.mean(0)
            values.append(((own - wanted) ** 2).mean())
    return float(np.mean(values))


def relations(case: Case) -> float:
    def of(x: np.ndarray) -> np.ndarray:
        parts = heads(x, min(RELATION_HEADS, case.arch.heads * case.arch.head_size))
        return np.stack([softmax(p @ p.T / np.sqrt(p.shape[1])) for p in parts])

    last = case.arch.layers - 1
    return float(np.mean([
        sum(divergence(of(t[f"1 {part}"]), of(s[f"{last} {part}"]))
            for part in (QUERY, KEY, VALUE))
        for s, t in zip(case.own, case.wanted, strict=True)
    ]))  # fmt: skip


def progressive(case: Case) -> float:
    values = []
    for s, t in zip(case.own, case.wanted, strict=True):
        for mine, theirs in enumerate(case.layers):
            target = t[f"{theirs} states"][:, case.kept.numpy()]
            values.append(((s[f"{mine} states"] - target) ** 2).mean())
            if not case.arch.blocks[mine].heads:
                continue
            own, wanted = s[f"{mine} a"], t[f"{theirs} a"]
            if len(own) != 5:
                own, wanted = own.mean(0), wanted.mean(0)
            values[-1] += divergence(wanted, own)
    return float(np.mean(values))


FORMULAS: dict[str, Callable[[Case], float]] = {
    f.__name__: f for f in (logits, labels, hidden, attention, relations, progressive)
}


def test_every_loss_has_a_formula_here() -> None:
    assert list(FORMULAS) == list(LOSSES)


@pytest.mark.parametrize("arch", STUDENTS, ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_a_loss_is_its_formula(
    name: str, arch: Arch, teacher: PreTrainedModel, data: Encoded
) -> None:
    case = Case(teacher, arch, data)
    expected = FORMULAS[name](case)
    assert expected > 0.01
    assert case.value(name) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "labels"])
def test_a_student_like_its_teacher_has_no_loss(
    name: str, teacher: PreTrainedModel, data: Encoded
) -> None:
    case = Case(teacher, TEACHER, data, seed=0)
    pairing = replace(case.pairing, hidden=torch.arange(30), relations=(1, 1))
    assert abs(case.value(name, pairing)) < 1e-6


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_differences(
    name: str, teacher: PreTrainedModel, data: Encoded
) -> None:
    """Along the gradient, the loss rises as the gradient's length says; padding has none."""
    case = Case(teacher, STUDENTS[1], data)
    loss, pairing = LOSSES[name], case.pairing
    signals = {s: x.double().requires_grad_() for s, x in case.seen.signals.items()}
    own = Seen(case.seen.logits.double().requires_grad_(), signals)
    fixed = {s: x.double() for s, x in case.target.signals.items()}
    target = Seen(case.target.logits.double(), fixed)
    loss.value(own, target, case.batch, pairing).backward()
    needed = [own.logits] if not loss.needs(pairing)[0] else [
        signals[s] for s in loss.needs(pairing)[0]
    ]  # fmt: skip
    gradients = [x.grad for x in needed]
    assert all(x.grad is None for s, x in signals.items() if s not in loss.needs(pairing)[0])
    padding = ~case.batch.padding_mask.bool()
    for gradient in gradients:
        assert gradient is not None and bool(gradient.isfinite().all())
        assert gradient.ndim == 2 or float(gradient[padding].abs().max()) == 0
    length = sum(float(g.square().sum()) for g in gradients) ** 0.5
    values = []
    for side in (1e-5, -1e-5):
        steps = zip(needed, gradients, strict=True)
        moved = {id(x): x.detach() + side * g / length for x, g in steps}
        shifted = Seen(moved.get(id(own.logits), own.logits.detach()),
                       {s: moved.get(id(x), x.detach()) for s, x in signals.items()})  # fmt: skip
        values.append(float(loss.value(shifted, target, case.batch, pairing)))
    assert length > 1e-3
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(length, rel=1e-4)


@pytest.mark.parametrize("values", [False, True], ids=["classes", "values"])
def test_examples_without_a_label_have_no_loss_of_labels(
    values: bool, teacher: PreTrainedModel, data: Encoded
) -> None:
    case = Case(teacher, STUDENTS[0], data)
    labels = case.batch.labels.float() if values else case.batch.labels
    none = float("nan") if values else NO_CLASS

    def loss(labels: Tensor) -> float:
        batch = replace(case.batch, labels=labels)
        return float(LOSSES["labels"].value(case.seen, case.target, batch, case.pairing))

    single = [loss(torch.where(torch.arange(3) == i, labels, none)) for i in range(3)]
    assert all(single) and sum(single) == pytest.approx(loss(labels), rel=1e-5)
    assert loss(torch.full_like(labels, none)) == 0


def test_vectors_are_cut_into_parts_of_like_size() -> None:
    x = torch.arange(11.0).reshape(1, 1, 11)
    parts = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    wanted = [sum(v * v for v in part) / len(part) ** 0.5 for part in parts]
    assert relation_scores(x, 3).flatten().tolist() == pytest.approx(wanted)
    assert relation_scores(x, 11).flatten().tolist() == pytest.approx([v * v for v in range(11)])


def test_targets_that_are_kept_are_those_that_are_computed_again(
    teacher: PreTrainedModel, data: Encoded
) -> None:
    wanted = {Signal(i, p) for i in range(3) for p in (STATES, QUERY, KEY, VALUE)}
    one = sum(LENGTHS) * 30 * 2
    kept, some, none = (TeacherTargets(teacher, data, limit) for limit in (12 * one, 5 * one, 0))
    batch = collate(data, [2, 0])
    real = batch.padding_mask.bool()
    found = []
    for targets, count in ((kept, 12), (some, 5), (none, 0)):
        targets.prepare(wanted, silent)
        assert len(targets.held) == count
        found.append(targets.of(batch, wanted))
    for seen in found[:2]:
        assert torch.equal(seen.logits, found[2].logits)
        for signal in wanted:
            assert_close(
                seen.signals[signal][real], found[2].signals[signal][real],
                tolerance=HALF, relative=HALF,
            )  # fmt: skip


def test_targets_are_computed_once_and_give_way_where_memory_is_short(
    teacher: PreTrainedModel, data: Encoded
) -> None:
    passes: list[str] = []
    targets = TeacherTargets(teacher, data, limit=2 * sum(LENGTHS) * 30 * 2)
    first, second, third = (Signal(i, STATES) for i in range(3))
    for wanted, count in (([first], 1), ([first], 1), ([first, second], 2), ([third, second], 3)):
        targets.prepare(wanted, lambda *said: passes.append(said[2]))
        assert len(passes) == count and set(wanted) <= set(targets.held)
    assert first not in targets.held


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("logits,labels,hidden", {"logits": 1.0, "labels": 0.5, "hidden": 1.0}),
        (" relations = 5e-1 , logits=2", {"logits": 2.0, "relations": 0.5}),
        ("hidden=0,attention=0.1234567891", {"attention": 0.1234567891}),
        ("progressive=3,labels", {"labels": 0.5, "progressive": 3.0}),
    ],
)
def test_losses_by_name(text: str, weights: dict[str, float]) -> None:
    assert parse_losses(text) == weights
    options = TrainOptions(losses=text)
    assert options.weights == weights == parse_losses(canonical(text))
    assert list(options.weights) == [name for name in LOSSES if name in weights]
    assert options.of_losses().get("losses", DEFAULT_LOSSES) == canonical(text)


def test_names_and_losses_are_the_same() -> None:
    """What options know without torch, and what losses are."""
    assert {name: loss.weight for name, loss in LOSSES.items()} == WEIGHTS
    assert {name for name, loss in LOSSES.items() if loss.staged} == STAGED
    case = Pairing(((0, 0),), torch.arange(2), (1,), (1,), (0, 0), 1)
    assert {name for name, loss in LOSSES.items() if loss.needs(case) == ((), ())} == OF_TASK


def test_the_default_is_one_of_the_table() -> None:
    names = ("logits", "labels", "hidden")
    assert canonical(DEFAULT_LOSSES) == DEFAULT_LOSSES == canonical(",".join(names))
    assert TrainOptions(losses=",".join(names)) == TrainOptions()
    assert not TrainOptions().of_losses()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"losses": "logit"}, "loss 'logit' is not one of logits, labels, hidden, attention, rel"),
        ({"losses": ""}, "loss '' is not one of"),
        ({"losses": "logits,,hidden"}, "loss '' is not one of"),
        ({"losses": "logits,hidden,logits=2"}, "loss 'logits' stands twice; give it once"),
        ({"losses": "logits=x"}, "weight of loss 'logits' is 'x'; give a number from 0, as log"),
        ({"losses": "logits="}, "weight of loss 'logits' is ''"),
        ({"losses": "logits=-1"}, "weight of loss 'logits' is '-1'"),
        ({"losses": "logits=nan"}, "weight of loss 'logits' is 'nan'"),
        ({"losses": "logits=inf"}, "weight of loss 'logits' is 'inf'"),
        ({"losses": "logits=1=2"}, "weight of loss 'logits' is '1=2'"),
        ({"losses": "logits=0,hidden=0"}, "every loss has weight 0"),
        ({"losses": "progressive"}, "'progressive' comes before other losses; add one"),
        ({"relation_heads": 12}, "of the loss 'relations', which is not among logits=1"),
        ({"relation_layer": 2, "losses": "logits"}, "of the loss 'relations', which is not among"),
        ({"relation_heads": 0, "losses": "relations"}, "relation_heads is 0"),
        ({"relation_layer": 0, "losses": "relations"}, "relation_layer 0; give numbers from 1"),
    ],
)
def test_odd_losses(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=f"training: .*{message}"):
        TrainOptions(**options)


def test_the_page_has_every_loss_with_its_weight_and_source() -> None:
    page = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))
    assert {name: rows.get(name) for name in LOSSES} == {
        name: f"{loss.weight:g} | {loss.meaning} | {loss.source}" for name, loss in LOSSES.items()
    }
