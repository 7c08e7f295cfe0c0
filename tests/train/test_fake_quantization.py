"""Fake quantisation against the interpreter, the compiler's own graph, and compiled libraries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny_bert import save_tiny
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from canao.accuracy.measure import predictions
from canao.compiler.pipeline import compile_model
from canao.defaults import LIMITS, silent
from canao.errors import InputError, UnsupportedError
from canao.fuse.simplify import rewritten
from canao.graph.dtypes import QUANTIZED
from canao.graph.from_torch.trace import trace
from canao.graph.interp import interpret
from canao.graph.meanings import quantize, quantized_gather, quantized_linear
from canao.inference.compiled_model import CompiledModel
from canao.isa.registry import ISAS
from canao.model import hf
from canao.model.arch import Arch
from canao.precision.quantize import PRECISIONS, channels, in_precision
from canao.target import get_target
from canao.train.data import TextData
from canao.train.engine import loop
from canao.train.engine.batches import Encoded, encode
from canao.train.engine.fake_quantization import (
    FakeQuantization,
    _Product,
    _Rows,
    channel_levels,
    quantizes,
    rounded,
    token_levels,
)
from canao.train.engine.loop import Loop, TrainingSchedule
from canao.train.options import TrainOptions
from canao.train.teacher.finetune import finetune, predict_logits
from canao.train.trainer import Trainer

WIDTHS = (1, 7, 17, 31, 33, 127)
# Wider than the tiny model: a table that int8 is for, and heads whose scale is no power of two.
WIDE = {"vocab_size": 3000, "hidden_size": 36, "num_attention_heads": 3}


def awkward_rows(width: int, most: int = 127) -> np.ndarray:
    """Rows of many sizes: random ones, zeros, halves exactly between two levels, one of a single
    number, minute and huge ones."""
    rng = np.random.default_rng(width)
    rows = rng.standard_normal((40, width)) * np.exp(rng.uniform(-20, 20, (40, 1)))
    halves = np.resize(np.arange(0.5 - most, most), (3, width))
    halves[:, 0] = (most, -most, most)
    halves[2] *= 2.0**-9
    alone = np.zeros((2, width))
    alone[0, -1], alone[1, 0] = -3.0, 1e-30
    return np.concatenate([rows, halves, np.zeros((1, width)), alone]).astype(np.float32)


@pytest.mark.parametrize("width", WIDTHS)
def test_levels_are_the_interpreters(width: int) -> None:
    for dtype in QUANTIZED:
        rows = awkward_rows(width, dtype.levels)
        wanted = quantize([rows], {"dtype": dtype})
        levels, unit = (t.numpy() for t in token_levels(torch.from_numpy(rows), dtype.levels))
        assert np.array_equal(levels, wanted["levels"])
        assert np.array_equal(unit[:, 0], wanted["scale"])
        assert np.abs(levels).max() == dtype.levels
        halves = levels[40:43, 1:]
        assert width == 1 or np.all(halves % 2 == 0), "halves are rounded to even"
    rows = awkward_rows(width)
    of_weights, scales = (t.numpy() for t in channel_levels(torch.from_numpy(rows)))
    for got, want in zip((of_weights, scales), channels(rows), strict=True):
        assert np.array_equal(got, want)


@pytest.mark.parametrize("width", WIDTHS)
def test_values_are_the_interpreters(width: int) -> None:
    """A table's rows to the bit, products to the rounding of their scales and bias."""
    rows, ids = awkward_rows(width), np.array([3, 0, 43, 3])
    levels, scales = channels(rows)
    wanted = quantized_gather([levels, scales[:, None], ids], {})
    assert np.array_equal(_Rows.apply(torch.from_numpy(rows[ids]), 1.0).numpy(), wanted)
    assert np.array_equal(rounded(torch.from_numpy(rows)).numpy()[ids], wanted)

    x = np.random.default_rng(1).standard_normal((5, width)).astype(np.float32)
    bias = np.arange(len(rows), dtype=np.float32)
    for dtype in QUANTIZED:
        given, most = quantize([x], {"dtype": dtype}), dtype.levels
        exact = quantized_linear([given, levels, scales.astype(np.float64), bias], {})
        got = _Product.apply(*map(torch.from_numpy, (x, rows, bias)), 1.0, most).numpy()
        np.testing.assert_allclose(got, exact, rtol=3e-7, atol=1e-6 * float(np.abs(bias).max()))
        bare = quantized_linear([given, levels, scales.astype(np.float64)], {})
        got = _Product.apply(torch.from_numpy(x), torch.from_numpy(rows), None, 1.0, most).numpy()
        np.testing.assert_allclose(got, bare, rtol=3e-7)


def test_gradients_pass_straight_through() -> None:
    """As if the rounded operands had been there from the start."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 5, 17), torch.randn(7, 17), torch.randn(7)
    for factor in (1.0, 0.3):
        levels, unit = token_levels(x)
        given = [t.clone().requires_grad_() for t in (x, weight, bias)]
        plain = [levels * unit, rounded(weight, factor), bias.clone()]
        plain = [t.requires_grad_() for t in plain]
        loss = _Product.apply(*given, factor).sin().sum()
        same = nn.functional.linear(*plain).sin().sum()
        torch.testing.assert_close(loss, same)
        loss.backward()
        same.backward()
        for one, two in zip(given, plain, strict=True):
            torch.testing.assert_close(one.grad, two.grad)
    rows = torch.randn(4, 9, requires_grad=True)
    (_Rows.apply(rows, 1.0) * torch.arange(9.0)).sum().backward()
    assert torch.equal(rows.grad, torch.arange(9.0).expand(4, 9))


def wide_model(**changes: object) -> PreTrainedModel:
    torch.manual_seed(2)
    shape = {"num_hidden_layers": 2, "intermediate_size": 50, "max_position_embeddings": 40}
    model = BertForSequenceClassification(BertConfig(**(WIDE | shape | changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def test_what_is_rounded_is_what_the_compiler_rounds() -> None:
    """Every row of whole numbers in the compiler's graph, and no other, and their scales."""
    model = wide_model()
    rounding = FakeQuantization.of(model, 40)
    assert rounding.factors["bert.encoder.layer.1.attention.self.query"] == np.float32(12**-0.5)
    float32 = rewritten(trace(model, 40), True, LIMITS)[1]
    graph = in_precision(float32, "int8")
    wanted, found = set(), set()
    for name, array in graph.constants.items():
        if name.endswith(".i8"):
            scales = channels(float32.constants[name.removesuffix(".i8")])[1]
            wanted |= {(row.tobytes(), s) for row, s in zip(array, scales, strict=True)}
    for path, factor in rounding.factors.items():
        weight = model.get_submodule(path).weight.detach()
        levels, scales = channel_levels((weight.double() * factor).float())
        rows = zip(levels.numpy().astype(np.int8), scales.numpy(), strict=True)
        found |= {(row.tobytes(), scale) for row, scale in rows}
    assert found == wanted and len(wanted) > 3000
    products = {p for p in rounding.factors if "embeddings" not in p}
    assert len(products) == 12 and not {"classifier", "bert.pooler.dense"} & products


@pytest.mark.parametrize("precision", ["int8", "int8-7bit"])
def test_the_model_computes_as_the_compilers_graph(precision: str) -> None:
    """Against the interpreter, in float32, of which both are a rounding away; float32 is far."""
    model = wide_model()
    float32 = rewritten(trace(model, 40), True, LIMITS)[1]
    graph, rounding = in_precision(float32, precision), FakeQuantization.of(model, 40, precision)
    given = {i.name for i in graph.inputs if i.given}
    for length in (1, 2, 17, 40):
        ids = np.random.default_rng(length).integers(0, 3000, length)
        inputs = {"input_ids": ids, "token_type_ids": np.zeros(length, int)}
        named = [inputs[i.name] for i in graph.inputs if i.name in given]
        wanted = interpret(graph, named, np.float32)[graph.outputs[0][1]]
        with torch.no_grad():
            plain = model(torch.from_numpy(ids)[None]).logits.numpy()
            with rounding.active(model):
                got = model(torch.from_numpy(ids)[None]).logits.numpy()
            again = model(torch.from_numpy(ids)[None]).logits.numpy()
        assert np.array_equal(plain, again), "the model is what it was"
        assert np.abs(got - wanted).max() < 0.1 * np.abs(plain - wanted).max()


class Odd(nn.Module):
    """A product that is no module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 24)
        self.weight = nn.Parameter(torch.randn(24, 24))
        self.last = nn.Linear(24, 2)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(nn.functional.linear(self.table(input_ids), self.weight))
        return self.last(x[:, 0])


def test_a_product_without_a_module_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"no module of its own .* train in float32"):
        FakeQuantization.of(Odd(), 16)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few layers and bits of weight: rounding tells."""
    return save_tiny(tmp_path_factory.mktemp("wide"), hidden_size=36, num_attention_heads=3)


@pytest.fixture(scope="module")
def data(wide: Path, task: TextData) -> Encoded:
    return encode(hf.load_tokenizer(wide), task.train, 32)


def test_a_rounded_model_learns_and_is_saved_as_any_other(
    wide: Path, task: TextData, data: Encoded, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = hf.load_classifier(wide, task.labels)
    keys, losses = set(model.state_dict()), list[float]()
    rounding = FakeQuantization.of(model, 64)
    finetune(
        model, data, TrainingSchedule(epochs=4, batch=16, lr=2e-3, quantized=4),
        lambda done, total, note: losses.append(float(note.removeprefix("loss "))),
        rounding=rounding,
    )  # fmt: skip
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])
    assert set(model.state_dict()) == keys
    assert not any("forward" in vars(module) for module in model.modules())
    hf.save_model(model, hf.load_tokenizer(wide), tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == keys - {"bert.embeddings.position_ids"}
    assert set(hf.load_classifier(tmp_path / "saved", task.labels).state_dict()) == keys


def test_predictions_are_the_libraries(
    wide: Path, task: TextData, data: Encoded, tmp_path: Path
) -> None:
    """Logits of the rounded model are much nearer to the library in int8 than those of float32."""
    torch.manual_seed(0)
    model = hf.load_classifier(wide, task.labels)
    finetune(model, data, TrainingSchedule(epochs=2, batch=16, lr=1e-3), silent)
    tokenizer = hf.load_tokenizer(wide)
    hf.save_model(model, tokenizer, tmp_path / "model")
    # Training does not round what attention multiplies where there are blocks for it.
    target = get_target()
    isas = [e for e in target.extensions if not ISAS[e].tiles["bf16"].blocks]
    target = replace(target, extensions=tuple(isas))
    artifact = compile_model(
        tmp_path / "model", tmp_path / "out", precision="int8", target=target
    )
    texts = encode(tokenizer, task.dev, 32)
    plain = predict_logits(model, texts)
    with FakeQuantization.of(model, 64).active(model):
        fake = predict_logits(model, texts)
    with CompiledModel(artifact) as library:
        compiled = np.stack([
            library.run(*library.arrays(e.text, e.pair))["logits"].reshape(-1) for e in task.dev
        ])  # fmt: skip
    near, far = (float(np.sqrt(np.mean((a - compiled) ** 2))) for a in (fake, plain))
    assert far > 1e-4, "int8 does not move this model"
    assert near < 0.2 * far
    classes = predictions(artifact, task).values
    assert np.array_equal(fake.argmax(1), classes)


@pytest.mark.parametrize("quantized", [0, 1, 3])
def test_the_last_epochs_are_rounded(
    quantized: int, wide: Path, task: TextData, data: Encoded
) -> None:
    model = hf.load_classifier(wide, task.labels)
    rounding = FakeQuantization.of(model, 64)
    seen: list[bool] = []

    def evaluate() -> float:
        seen.append(any("forward" in vars(module) for module in model.modules()))
        return -float(len(seen))

    part = data.take(range(40))
    schedule = TrainingSchedule(epochs=3, batch=16, quantized=quantized)
    run = Loop(
        model, part, schedule, lambda batch: model(**batch.inputs).logits.square().mean(),
        evaluate=evaluate, rounding=rounding,
    )  # fmt: skip
    history = run.run(silent)
    assert seen == [False] * (4 - quantized) * (quantized < 3) + [True] * (
        quantized + 1 if quantized else 0
    )
    assert len(history) == 3
    if quantized:  # scores fall: the best one is the first with rounding, whatever came before
        assert run.state.best == -float(seen.index(True) + 1)


OPTIONS = TrainOptions(
    max_length=32, batch=16, teacher_epochs=4, teacher_lr=2e-3, quick_steps=2, final_epochs=3,
    student_lr=1e-3, threads=1, precision="int8",
)  # fmt: skip
SMALL = Arch.uniform(2, 24, 2, 32)


def test_a_killed_run_gives_the_same_rounded_student(
    wide: Path, task: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Trainer(wide, task, tmp_path / "whole", OPTIONS, silent)
    student = whole.finish(SMALL)
    assert whole.finish(SMALL) == student
    model = hf.load_classifier(student.model_dir, task.labels)
    with FakeQuantization.of(model, 64).active(model):
        assert whole.score(model) == student.score

    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)

    def stop(stage: str, done: int, total: int, note: str) -> None:
        if stage.startswith("distil") and done == 50:  # of 60; rounded from 40
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(wide, task, tmp_path / "parted", OPTIONS, stop).finish(SMALL)
    again = Trainer(wide, task, tmp_path / "parted", OPTIONS, silent).finish(SMALL)
    assert again.score == student.score
    other = hf.load_classifier(again.model_dir, task.labels).state_dict()
    assert all(torch.equal(weight, other[name]) for name, weight in model.state_dict().items())
    plain = replace(OPTIONS, precision="float32")
    in_float = Trainer(wide, task, tmp_path / "whole", plain, silent)
    found = in_float.finish(SMALL)
    other = hf.load_classifier(found.model_dir, task.labels).state_dict()
    assert any(not torch.equal(weight, other[n]) for n, weight in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "int3"}, "precision 'int3' is not one of float32"),
        ({"precision": "int8", "quantized_epochs": 4}, "quantized_epochs is 4; give 0 to 3"),
        ({"precision": "int8", "quantized_epochs": -1}, "quantized_epochs is -1; give 0 to 3"),
        ({"precision": "float32", "quantized_epochs": 1}, "float32 rounds nothing"),
    ],
)
def test_odd_options(
    change: dict[str, object], words: str, wide: Path, task: TextData, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        Trainer(wide, task, tmp_path, replace(OPTIONS, **change), silent)


def test_a_third_of_the_epochs_one_at_least() -> None:
    found = [TrainOptions(final_epochs=n, precision="int8").rounded_epochs for n in (1, 2, 3, 5, 9)]
    assert found == [1, 1, 1, 2, 3]
    assert [p for p in PRECISIONS if quantizes(p)] == ["int8", "int8-7bit"]
