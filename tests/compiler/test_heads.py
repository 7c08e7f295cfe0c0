"""Models that compute their scores themselves: what their graphs end in, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import canao
from canao.compiler.heads import describe, end_of
from canao.compiler.loading import load_model
from canao.errors import UnsupportedError
from canao.graph.interp import outputs
from canao.model.directory.loaded_model import LoadedModel
from tests.compiler.test_onnx import export
from tests.heads import save_model
from tests.oracle import SHALLOW, assert_close

Function = Callable[[torch.Tensor], torch.Tensor]
TEXT = "Ada Lovelace worked in London."


class Head(torch.nn.Module):
    """A function of a linear map of a text, of `columns` numbers."""

    def __init__(self, function: Function, columns: int = 3) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.table, self.last = torch.nn.Embedding(30, 8), torch.nn.Linear(8, columns)
        self.function = function

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.function(self.last(self.table(input_ids).mean(1)))


def by_parts(x: torch.Tensor) -> torch.Tensor:
    e = torch.exp(x - x.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def twice(x: torch.Tensor) -> torch.Tensor:
    p = torch.sigmoid(x)
    return torch.cat([1 - p, p], -1)


# What the graph is found to end in, and functions that are that, written in many ways.
ENDS: dict[str, list[Function]] = {
    "softmax": [
        lambda x: x.softmax(-1),
        lambda x: x.softmax(-1).reshape(1, 3, 1).squeeze(-1),
        lambda x: x.transpose(0, 1).softmax(0).transpose(0, 1),
        lambda x: (x / 0.07).softmax(-1),
        by_parts,
        lambda x: torch.exp(x) / torch.exp(x).sum(-1, keepdim=True),
        lambda x: torch.exp(x - x.logsumexp(-1, keepdim=True)),
        lambda x: torch.log_softmax(x, -1).exp(),
        lambda x: (F.relu(x) + 1).softmax(-1),
        lambda x: x.softmax(-1) * 0.5 + x.softmax(-1) * 0.5,
    ],
    "log_softmax": [
        lambda x: x.log_softmax(-1),
        lambda x: torch.log(x.softmax(-1) + 1e-30),
        lambda x: x - x.logsumexp(-1, keepdim=True),
        lambda x: x - torch.log(torch.exp(x).sum(-1, keepdim=True)),
    ],
    "sigmoid": [
        torch.sigmoid,
        lambda x: 1 / (1 + torch.exp(-x)),
        lambda x: torch.exp(x) / (1 + torch.exp(x)),
        lambda x: (torch.tanh(x * 0.5) + 1) * 0.5,
        lambda x: 1 - torch.sigmoid(x),
        lambda x: (torch.tanh(x) * 0.5 + 0.5).clamp(0, 1),
    ],
    "log_sigmoid": [F.logsigmoid, lambda x: -F.softplus(-x)],
    "bounded": [torch.tanh, lambda x: torch.tanh(x).unsqueeze(-1).squeeze(-1)],
    "half": [torch.relu, F.softplus, lambda x: x * x, torch.exp],
    "": [
        lambda x: x,
        lambda x: x + 40,
        lambda x: x / 0.07,
        lambda x: torch.tanh(x / 30) * 30,
        lambda x: x.clamp(-10, 10),
        lambda x: x.reshape(3, 1).transpose(0, 1),
        lambda x: F.gelu(x),
        lambda x: x - x.mean(-1, keepdim=True),
    ],
}  # fmt: skip
CASES = [(end, i) for end, functions in ENDS.items() for i in range(len(functions))]


@pytest.mark.parametrize(("end", "i"), CASES, ids=lambda x: str(x) or "none")
def test_ends_are_found_however_they_are_written(end: str, i: int) -> None:
    graph = load_model(Head(ENDS[end][i]), 16)[1]
    assert end_of(graph, graph.outputs[0][1]) == end


def test_a_single_column() -> None:
    for function, end in (
        (torch.sigmoid, "sigmoid"), (lambda x: x, ""), (torch.relu, "half"),
        (torch.tanh, "bounded"), (twice, "softmax"), (F.logsigmoid, "log_sigmoid"),
    ):  # fmt: skip
        graph = load_model(Head(function, 1), 16)[1]
        assert end_of(graph, graph.outputs[0][1]) == end


def test_one_column_of_two_is_a_score() -> None:
    graph = load_model(Head(lambda x: x.softmax(-1)[:, 1:2], 2), 16)[1]
    assert end_of(graph, graph.outputs[0][1]) == "sigmoid"


class Logarithms(torch.nn.Module):
    """What needs a logarithm in the library itself, over dimensions of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.table = torch.nn.Embedding(40, 37)

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.table(input_ids) * 9
        last, middle, total = x.log_softmax(-1), x.log_softmax(1), x.logsumexp(-1)
        return last, middle, total, F.logsigmoid(x), torch.log(x.abs() + 1e-20)


def test_logarithms_are_compiled(tmp_path: Path) -> None:
    model = Logarithms()
    ids = np.array([[3, 1, 4, 1, 5, 9, 2, 6]])
    with torch.no_grad():
        want = [w.numpy() for w in model(torch.from_numpy(ids))]
    graph = load_model(model, 16)[1]
    for w, got in zip(want, outputs(graph, [ids[0]]), strict=True):
        assert_close(got, w, tolerance=SHALLOW)
    compiled = canao.compile(model, tmp_path / "out")
    for w, got in zip(want, compiled.run(ids).values(), strict=True):
        assert_close(got, w, tolerance=SHALLOW)


class Scored(torch.nn.Module):
    """A model of Transformers, and a function of its logits."""

    def __init__(self, model: torch.nn.Module, function: Function) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"probabilities": self.function(self.model(**inputs).logits)}


def onnx_file(folder: Path, function: Function, head: str, **settings: Any) -> Any:
    """An .onnx file of a model and a function of its logits, with the files that lie beside it;
    what PyTorch says of TEXT."""
    model, tokenizer = save_model(head, folder, **settings)
    (folder / "model.safetensors").unlink()
    scored = Scored(model, function).eval()
    export(scored, folder / "model.onnx", 17, dynamo=False)
    with torch.no_grad():
        encoded = tokenizer(TEXT, return_tensors="pt")
        return scored(**encoded)["probabilities"][0].double().numpy(), encoded, tokenizer


@pytest.mark.parametrize(
    ("function", "after", "problem"),
    [
        (lambda x: x.softmax(-1), None, None),
        (torch.sigmoid, None, "multi_label_classification"),
        (torch.sigmoid, None, None),
        (lambda x: x.log_softmax(-1), np.exp, None),
        (by_parts, None, None),
        (torch.tanh, None, None),
    ],
    ids=["softmax", "sigmoid", "sigmoid of one", "log_softmax", "parts", "tanh"],
)
def test_scores_of_onnx_files_are_their_own(
    function: Function, after: Any, problem: str | None, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    own = {"problem_type": problem} if problem else {}
    want, *_ = onnx_file(tmp_path, function, "ForSequenceClassification", num_labels=3, **own)
    want = want if after is None else after(want)
    compiled = canao.compile(tmp_path / "model.onnx")
    got = compiled.predict(TEXT)
    assert dict(got.scores) == pytest.approx(
        {f"LABEL_{i}": v for i, v in enumerate(want)}, abs=SHALLOW
    )
    if problem:
        assert set(got.chosen) == {name for name, score in got.scores if score >= 0.5}


def test_other_tasks_of_onnx_files(tmp_path: Path) -> None:
    """Token labels, answers and masks: as from the model without the function."""
    pytest.importorskip("onnx")
    for head, function, text in (
        ("ForTokenClassification", lambda x: x.softmax(-1), TEXT),
        ("ForMaskedLM", lambda x: x.log_softmax(-1), "Ada [MASK] in London."),
    ):
        folder = tmp_path / head
        onnx_file(folder, function, head)
        plain = canao.compile(save_model(head, tmp_path / f"{head} plain")[0].eval(),
                              tmp_path / f"{head}-out")  # fmt: skip
        ids, types = (compiled := canao.compile(folder / "model.onnx")).encode(text)
        logits = plain.run(ids, types)["logits"].astype(np.float64)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        got = compiled.predict(text, **({"aggregate": "none"} if "Token" in head else {}))
        if "Token" in head:
            assert [e.label for e in got] == [f"LABEL_{i}" for i in p[1:-1].argmax(-1)]
            assert [e.score for e in got] == pytest.approx(p[1:-1].max(-1).tolist(), abs=SHALLOW)
        else:
            row = np.sort(p[list(ids).index(compiled._reader().tokenizer.token_to_id("[MASK]"))])
            scores = [f.score for f in got[0]]
            assert scores == pytest.approx(row[::-1][:5].tolist(), abs=SHALLOW)


def test_starts_and_ends_must_be_alike() -> None:
    class Spans(torch.nn.Module):
        def __init__(self, start: Function, end: Function) -> None:
            super().__init__()
            self.table, self.last = torch.nn.Embedding(30, 8), torch.nn.Linear(8, 2)
            self.start, self.end = start, end

        def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
            start, end = self.last(self.table(input_ids)).split(1, -1)
            return {"start_logits": self.start(start.squeeze(-1)),
                    "end_logits": self.end(end.squeeze(-1))}  # fmt: skip

    class BertForQuestionAnswering(Spans):
        pass

    def soft(x: torch.Tensor) -> torch.Tensor:
        return x.softmax(-1)

    for functions, activation in (
        ((soft, soft), "identity"), ((torch.clone, torch.clone), "softmax"),
        ((torch.tanh, torch.tanh), "softmax"),
    ):  # fmt: skip
        loaded, graph = load_model(BertForQuestionAnswering(*functions), 16)
        assert describe(loaded, graph).get("activation") == activation
    loaded, graph = load_model(BertForQuestionAnswering(soft, torch.clone), 16)
    with pytest.raises(UnsupportedError, match=r"'start_logits' ends in softmax.*export both"):
        describe(loaded, graph)


def test_it_is_said(tmp_path: Path) -> None:
    from canao.cli.inspect_command import format_report, inspect_model
    from canao.target import get_target

    class BertForSequenceClassification(Head):
        config = save_model("ForSequenceClassification", tmp_path, num_labels=3)[0].config

    model = BertForSequenceClassification(lambda x: x.softmax(-1))
    report, error = inspect_model(model, get_target())
    assert error is None and "its values are the scores" in format_report(report)
    assert describe(LoadedModel(model, model.config, None), load_model(model)[1])["activation"] == (
        "identity"
    )
