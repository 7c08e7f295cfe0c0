"""`canao inspect`: the same facts as the compilation's manifest, and all that is not supported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from canao.cli.inspect_command import format_report, inspect_model
from canao.compiler.pipeline import compile_model
from canao.model.directory.onnx_sidecar import read_sidecar
from canao.model.directory.task import describe_head
from canao.target import get_target
from tests.heads import save_model

HOST = get_target()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_model("ForSequenceClassification", path, id2label={0: "no", 1: "yes"},
               problem_type="multi_label_classification")  # fmt: skip
    return path


def test_what_it_says_is_what_is_compiled(folder: Path, tmp_path: Path) -> None:
    report, error = inspect_model(folder, HOST, 64)
    assert error is None and report["supported"] and not report["problems"]
    artifact = compile_model(folder, tmp_path / "out")
    manifest = artifact.manifest
    for key in ("task", "labels", "problem_type", "operators", "parameters", "rewrites",
                "max_length", "pooling"):  # fmt: skip
        assert report[key] == manifest[key], key
    assert sum(report["forms"].values()) == len(manifest["kernels"])
    assert sum(k["count"] for k in report["kernels"]) == len(manifest["kernels"])
    assert report["flops"] == manifest["flops"]["total"] == sum(
        k["flops"] for k in report["kernels"]
    )
    assert report["memory"]["weights"] == artifact.weights.stat().st_size
    assert report["tokenizer"]["kind"] == "WordPiece"


def test_memory_at_a_length(folder: Path) -> None:
    report, _ = inspect_model(folder, HOST, 16)
    shorter, _ = inspect_model(folder, HOST, 16, max_length=16)
    memory = report["memory"]
    assert memory["arena_if_max_length_is_length"] == shorter["memory"]["arena"] < memory["arena"]
    assert report["flops"] == shorter["flops"]


def test_for_people(folder: Path) -> None:
    report, _ = inspect_model(folder, HOST)
    text = format_report(report)
    for words in ("text-classification, 2 labels: no, yes (independent of each other)", "WordPiece",
                  "before fusion", "GFLOPs at 64 tokens", "weights", "layer_norm"):  # fmt: skip
        assert words in text, text
    assert max(map(len, text.splitlines())) < 200


class Odd(torch.nn.Module):
    """Operators that are not compiled, at several places, and what is computed from them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(9, 4)
        self.layers = torch.nn.ModuleList([Sorted(), Sorted()])
        self.last = Cumulative()

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.table(input_ids)
        for layer in self.layers:
            x = layer(x) + 1
        return self.last(x)


class Sorted(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sort(-1).values


class Cumulative(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(-1).cumprod(-1)


def test_everything_that_is_not_supported_is_listed() -> None:
    report, error = inspect_model(Odd(), HOST, max_length=16)
    assert not report["supported"] and error is not None
    found = [(p["operator"], p["where"]) for p in report["problems"]]
    assert found == [
        ("aten.sort.default", "layers.0"),
        ("aten.sort.default", "layers.1"),
        ("aten.cumsum.default", "last"),
        ("aten.cumprod.default", "last"),
    ]
    assert all(p["hint"] for p in report["problems"])
    assert "4 operators" in str(error) and "\n" not in str(error)
    text = format_report(report)
    for words in ("aten.sort.default x2", "at layers.0", "at layers.1", "a running sum"):
        assert words in text, text


def test_onnx_files(tmp_path: Path) -> None:
    """The same for an ONNX file: every node whose operator is not supported, by its name."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    table = helper.make_tensor("table", TensorProto.FLOAT, [9, 4], [0.5] * 36)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"], name="look_up"),
        helper.make_node("Hardmax", ["rows"], ["summed"], name="most"),
        helper.make_node("Det", ["summed"], ["spots"], name="spot"),
        helper.make_node("Relu", ["spots"], ["last_hidden_state"], name="relu"),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "s"])],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [1])],
        [table],
    )  # fmt: skip
    path = tmp_path / "model.onnx"
    versions = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=versions, ir_version=8), path)
    report, error = inspect_model(path, HOST)
    assert error is not None and "2 operators" in str(error)
    found = [(p["operator"], p["where"]) for p in report["problems"]]
    assert found == [("Hardmax", "node 'most' (opset 17)"), ("Det", "node 'spot' (opset 17)")]


@pytest.mark.parametrize(
    ("architecture", "settings", "width", "task"),
    [
        ("BertForQuestionAnswering", {}, None, "question-answering"),
        ("BertForMaskedLM", {}, 99, "fill-mask"),
        ("BertForSequenceClassification", {}, 2, "text-classification"),
        ("BertForSequenceClassification", {"id2label": {"0": "x"}}, 1, "text-classification"),
        ("BertForSequenceClassification", {"id2label": {"0": "x"}, "problem_type": "regression"}, 1,
         "text-regression"),
        ("BertModel", {}, 48, "feature-extraction"),
    ],
)
def test_heads_of_onnx_files(
    architecture: str, settings: dict, width: int | None, task: str, tmp_path: Path
) -> None:
    """The configuration beside the file names the head."""
    config = {"architectures": [architecture], "model_type": "bert", **settings}
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = read_sidecar(tmp_path / "model.onnx", {"start_logits": width})
    head = describe_head(read, ["last_hidden_state"])
    assert head["task"] == task
    names = ["LABEL_0", "LABEL_1"] if width == 2 else ["x"]
    assert head["labels"] == (names if task == "text-classification" else [])
