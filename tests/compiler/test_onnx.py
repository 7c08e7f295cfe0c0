"""ONNX files: models of several families, by both of PyTorch's exporters, against PyTorch."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForTokenClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.graph.interp import outputs
from canao.inference.compiled_model import CompiledModel
from canao.target import get_target
from tests.compiler import families
from tests.compiler.models import SPREAD, classifier, mobile
from tests.conftest import LENGTHS
from tests.oracle import assert_close

pytest.importorskip("onnx")
_SIZES = {"vocab_size": 99, "num_hidden_layers": 2, "initializer_range": SPREAD,
          "max_position_embeddings": 140}  # fmt: skip
_BERT = {**_SIZES, "hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 80}


def _distilbert() -> torch.nn.Module:
    sizes = {"vocab_size": 99, "n_layers": 2, "dim": 48, "n_heads": 3, "hidden_dim": 80}
    config = DistilBertConfig(**sizes, initializer_range=SPREAD, max_position_embeddings=140)
    return DistilBertForSequenceClassification(config)


FAMILIES: dict[str, Callable[[], torch.nn.Module]] = {
    "bert": lambda: classifier("small", max_length=140),
    "gelu_new": lambda: classifier("wide_head", max_length=140),
    "silu": lambda: classifier("silu", max_length=140, layers=1),
    "distilbert": _distilbert,
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**_BERT, pad_token_id=1)),
    "electra": lambda: ElectraForTokenClassification(ElectraConfig(**_BERT, embedding_size=16)),
    "albert": lambda: AlbertModel(AlbertConfig(**_BERT, embedding_size=16)),
    "mobilebert": lambda: mobile("standard", max_length=140),
}


# Families whose tokens have no types.
_UNTYPED = ("Roberta", "DistilBert", "MPNet", "DebertaV2", "ModernBert", "GPT2")


class Positional(torch.nn.Module):
    """A model called by position, which both exporters take; outputs as a tuple."""

    def __init__(self, model: torch.nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = self.model(**dict(zip(self.names, inputs, strict=True)))
        return tuple(v for v in result.values() if isinstance(v, torch.Tensor))


def make(family: str) -> torch.nn.Module:
    torch.manual_seed(5)
    return FAMILIES[family]().eval()


def export(model: torch.nn.Module, path: Path, opset: int, *, dynamo: bool, mask: bool = True,
           external: bool = False, kind: torch.dtype = torch.int64) -> Positional:  # fmt: skip
    """The model as an ONNX file, and what was exported."""
    names: tuple[str, ...] = ("input_ids",)
    names += ("attention_mask",) if mask else ()
    typed = not type(model).__name__.startswith(_UNTYPED)
    names += ("token_type_ids",) if typed else ()
    if not dynamo and opset < 14:
        model.set_attn_implementation("eager")
    wrapped = Positional(model, names).eval()
    ids = torch.randint(2, 99, (1, 8), dtype=kind)
    example = tuple(torch.ones_like(ids) if "mask" in n else ids % 2 if "type" in n else ids
                    for n in names)  # fmt: skip
    silence = contextlib.redirect_stdout(io.StringIO())
    with warnings.catch_warnings(), silence, contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        if dynamo:
            tokens = torch.export.Dim("s", min=2, max=128)
            torch.onnx.export(
                wrapped, example, path, dynamo=True, opset_version=opset, verbose=False,
                input_names=list(names), dynamic_shapes=(tuple({1: tokens} for _ in names),),
                external_data=external,
            )  # fmt: skip
        else:
            torch.onnx.export(
                wrapped, example, path, dynamo=False, opset_version=opset,
                input_names=list(names),
                dynamic_axes={n: {0: "the batch", 1: "tokens.of-it"} for n in names},
            )  # fmt: skip
    return wrapped


def opset_of(path: Path) -> int:
    import onnx

    found = onnx.load(path, load_external_data=False).opset_import
    return next(o.version for o in found if o.domain == "")


@torch.no_grad()
def compare(wrapped: Positional, compiled: CompiledModel, sentences: Any) -> None:
    slots = [i["name"] for i in compiled.artifact.manifest["inputs"]]
    for length in LENGTHS:
        ids, types = sentences(length, 97)
        ids = ids + 2  # 0 and 1 are padding, which a text may hold as well
        ids[length // 2 :: 5] = 1
        given = {"input_ids": ids, "token_type_ids": types, "attention_mask": np.ones_like(ids)}
        tensors = (torch.from_numpy(given[n]).long()[None] for n in wrapped.names)
        expected = wrapped(*tensors)
        got = compiled.run(*(given[n][None] for n in slots))
        assert len(got) == len(expected)
        for (name, array), want in zip(got.items(), expected, strict=True):
            assert_close(array, want, f"{name} at length {length}")


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, tmp_path: Path, sentences) -> None:
    """By the exporter on torch.export, in as few kernels as from the module itself."""
    model = make(family)
    whole = compile_graph(load_model(model)[1], get_target()).kernels
    wrapped = export(model, tmp_path / "model.onnx", 18, dynamo=True)
    artifact = compile_model(tmp_path / "model.onnx", tmp_path / "out")
    assert artifact.kernels == whole
    with CompiledModel(artifact, 2) as compiled:
        compare(wrapped, compiled, sentences)


@pytest.mark.parametrize(
    ("family", "opset"),
    (("bert", 13), ("roberta", 14), ("bert", 16), ("bert", 17), ("roberta", 18)),
)
def test_older_opsets(family: str, opset: int, tmp_path: Path, sentences) -> None:
    """By the exporter on TorchScript; before 17 it takes norms apart, and gelu always."""
    wrapped = export(make(family), tmp_path / "model.onnx", opset, dynamo=False)
    assert opset_of(tmp_path / "model.onnx") == opset
    artifact = compile_model(tmp_path / "model.onnx", tmp_path / "out")
    # RoBERTa counts its positions in a kernel of their own.
    assert artifact.kernels == 1 + 2 * 5 + 2 + (family == "roberta")
    with CompiledModel(artifact, 1) as compiled:
        compare(wrapped, compiled, sentences)


@pytest.mark.parametrize("family", ("gelu_new", "mobilebert"))
def test_older_opset_of_other_families(family: str, tmp_path: Path, sentences) -> None:
    wrapped = export(make(family), tmp_path / "model.onnx", 14, dynamo=False)
    artifact = compile_model(tmp_path / "model.onnx", tmp_path / "out")
    with CompiledModel(artifact, 1) as compiled:
        compare(wrapped, compiled, sentences)


@pytest.mark.parametrize(("family", "opset", "dynamo"), (
    ("MPNet", 13, False), ("DebertaV2", 14, False), ("ModernBert", 17, False),
    ("ModernBert", 23, True),
))  # fmt: skip
def test_positions_and_rotations(family: str, opset: int, dynamo: bool, tmp_path: Path) -> None:
    """Relative positions are looked up at places that the graph computes from them, and rotations
    are an operator from 23 on: the rewritten graph, as large as from the module."""
    model = families.make(family, "ForTokenClassification", num_hidden_layers=1)
    whole = compile_graph(load_model(model)[1], get_target()).kernels
    wrapped = export(model, tmp_path / "model.onnx", opset, dynamo=dynamo)
    staged = compile_graph(load_model(tmp_path / "model.onnx", 64)[1], get_target())
    assert staged.kernels == whole
    for length in (1, 7, 33):
        ids = np.arange(length, dtype=np.int32) * 7 % 90 + 5
        tensors = torch.from_numpy(ids).long()[None]
        with torch.no_grad():
            (want,) = wrapped(tensors, torch.ones_like(tensors))
        (got,) = outputs(staged.program.graph, [ids])
        assert_close(got, want, f"length {length}")


@pytest.mark.parametrize("opset", (14, 18))
def test_a_decoder(opset: int, tmp_path: Path) -> None:
    """GPT-2 without a cache of its own; ids as int32, axes of odd names."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(2)
    config = GPT2Config(vocab_size=99, n_positions=40, n_embd=24, n_layer=1, n_head=2,
                        use_cache=False, initializer_range=SPREAD)  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    wrapped = export(model, tmp_path / "model.onnx", opset, dynamo=False, kind=torch.int32)
    staged = compile_graph(load_model(tmp_path / "model.onnx")[1], get_target())
    assert [n.op for n in staged.program.graph.nodes].count("causal_attention") == 1
    for length in (1, 17):
        ids = np.arange(length, dtype=np.int32) * 5 % 97
        tensors = torch.from_numpy(ids)[None]
        with torch.no_grad():
            (want,) = wrapped(tensors, torch.ones_like(tensors))
        (got,) = outputs(staged.program.graph, [ids])
        assert_close(got, want, f"length {length}", scale=min(1.0, float(want.abs().max())))


@pytest.mark.parametrize("opset", (20, 23))
def test_newer_opsets(opset: int, tmp_path: Path, sentences) -> None:
    """Gelu is an operator from 20 on, attention from 23."""
    wrapped = export(make("bert"), tmp_path / "model.onnx", opset, dynamo=True)
    assert opset_of(tmp_path / "model.onnx") == opset
    artifact = compile_model(tmp_path / "model.onnx", tmp_path / "out")
    assert artifact.kernels == 1 + 2 * 5 + 2
    with CompiledModel(artifact, 1) as compiled:
        compare(wrapped, compiled, sentences)


def test_unfused_and_without_a_mask(tmp_path: Path, sentences) -> None:
    wrapped = export(make("bert"), tmp_path / "model.onnx", 14, dynamo=False, mask=False)
    artifact = compile_model(tmp_path / "model.onnx", tmp_path / "out", fusion=False)
    with CompiledModel(artifact, 2) as compiled:
        compare(wrapped, compiled, sentences)


def test_weights_beside_the_file_and_labels(tmp_path: Path, sentences) -> None:
    """External data, the tokenizer and the names of labels lie in the model's directory."""
    from canao import compile as compile_
    from tests.test_cli import _write_tokenizer

    model = make("bert")
    model.config.id2label = {0: "no", 1: "yes", 2: "maybe"}
    wrapped = export(model, tmp_path / "model.onnx", 18, dynamo=True, external=True)
    assert (tmp_path / "model.onnx.data").is_file()
    model.config.architectures = [type(model).__name__]
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict()))
    _write_tokenizer(tmp_path)
    with compile_(tmp_path / "model.onnx") as compiled:
        assert compiled.artifact.labels == ("no", "yes", "maybe")
        assert compiled.artifact.manifest["task"] == "text-classification"
        assert compiled.predict("wake me at seven").label in ("no", "yes", "maybe")
        compare(wrapped, compiled, sentences)


def test_the_longest_text_is_that_of_the_position_table(tmp_path: Path) -> None:
    export(make("roberta"), tmp_path / "model.onnx", 14, dynamo=False)
    assert load_model(tmp_path / "model.onnx")[1].max_length == 138  # two rows are for padding
    assert load_model(tmp_path / "model.onnx", 64)[1].max_length == 64
