"""Sentence embeddings: pooling, Dense and normalisation of Sentence-Transformers' directories,
computed by the compiled library and beside it in PyTorch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer

import canao
from canao.inference.tasks.vectors import POOLINGS, pool
from canao.model.directory.task import describe_head
from canao.model.sentence.modules import ACTIVATIONS
from canao.model.sentence.sentence import read_sentence
from tests import tokens
from tests.heads import LONGEST, save_model
from tests.oracle import SHALLOW, assert_close

TEXT = "Ada Lovelace worked in London, with Charles Babbage."
WIDTH = 48


def write_modules(folder: Path, pooling: dict[str, Any], *kinds: str, inner: str = "",
                  **settings: Any) -> None:  # fmt: skip
    """What Sentence-Transformers writes around a model, which is in folder/inner."""
    kinds = ("Transformer", "Pooling", *kinds)
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else inner,
         "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    form = {"word_embedding_dimension": WIDTH, **pooling}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(form))
    (folder / inner / "sentence_bert_config.json").write_text(json.dumps(settings))


def write_dense(folder: Path, place: int, linear: torch.nn.Linear, activation: str) -> None:
    part = folder / f"{place}_Dense"
    part.mkdir(exist_ok=True)
    named = {"in_features": linear.in_features, "out_features": linear.out_features,
             "bias": linear.bias is not None, "activation_function": activation}  # fmt: skip
    (part / "config.json").write_text(json.dumps(named))
    tensors = {f"linear.{name}": tensor for name, tensor in linear.state_dict().items()}
    save_file(tensors, part / "model.safetensors")


def by_hand(hidden: torch.Tensor, modes: Sequence[str]) -> torch.Tensor:
    """The poolings of [s, width] by their definitions."""
    count = len(hidden)
    weights = torch.arange(1.0, count + 1)[:, None]
    by_mode = {
        "cls": hidden[0], "max": hidden.max(0).values, "mean": hidden.mean(0),
        "mean_sqrt_len_tokens": hidden.sum(0) / count**0.5,
        "weightedmean": (weights * hidden).sum(0) / weights.sum(), "lasttoken": hidden[-1],
    }  # fmt: skip
    return torch.cat([by_mode[mode] for mode in modes])


def cosine(a: np.ndarray, b: torch.Tensor) -> float:
    return float(a @ b.numpy() / np.linalg.norm(a) / np.linalg.norm(b.numpy()))


@pytest.mark.parametrize("normalize", (False, True))
def test_every_pooling_is_computed_by_the_library(tmp_path: Path, normalize: bool) -> None:
    """All of them put one after another, at one token, at few and at the most. For a library that
    came from an .onnx file and has no such output, `pool` gives the same."""
    model, _ = save_model("Model", tmp_path)
    write_modules(tmp_path, {"pooling_mode": list(POOLINGS)}, *["Normalize"] * normalize)
    compiled = canao.compile(tmp_path)
    for length in (1, 7, 33, 64):
        ids = torch.arange(length)[None] % 40 + 5
        with torch.no_grad():
            want = by_hand(model(ids).last_hidden_state[0], POOLINGS)
        want = torch.nn.functional.normalize(want, dim=0) if normalize else want
        out = compiled.run(ids.numpy())
        assert list(out) == ["last_hidden_state", "pooler_output", "sentence_embedding"]
        assert out["sentence_embedding"].shape == (1, len(POOLINGS) * WIDTH)
        assert_close(out["sentence_embedding"][0], want)
        after = pool(out["last_hidden_state"][0], POOLINGS, normalize=normalize)
        assert_close(after, want)
    batch = compiled.run(np.tile(ids.numpy(), (3, 1)))["sentence_embedding"]
    np.testing.assert_array_equal(batch, np.repeat(out["sentence_embedding"], 3, 0))


@pytest.mark.parametrize("inner", ("", "0_Transformer"))
def test_dense_modules(tmp_path: Path, inner: str) -> None:
    """Two of them, with a bias and without, around a normalisation, as LaBSE's layout has them."""
    (tmp_path / inner).mkdir(exist_ok=True)
    model, tokenizer = save_model("Model", tmp_path / inner)
    torch.manual_seed(1)
    first, second = torch.nn.Linear(WIDTH, 32), torch.nn.Linear(32, 80, bias=False)
    write_modules(tmp_path, {"pooling_mode_cls_token": True}, "Dense", "Normalize", "Dense",
                  inner=inner)  # fmt: skip
    write_dense(tmp_path, 2, first, "torch.nn.modules.activation.Tanh")
    write_dense(tmp_path, 4, second, "torch.nn.modules.linear.Identity")
    compiled = canao.compile(tmp_path)
    assert compiled.artifact.manifest["task"] == "sentence-embedding"
    assert compiled.artifact.manifest["pooling"]["dense"] == [[32, "Tanh"], [80, "Identity"]]
    for text in (TEXT, *tokens.SENTENCES):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            want = second(torch.nn.functional.normalize(torch.tanh(first(hidden[0])), dim=0))
        got = compiled.predict(text)
        assert got.shape == (80,) and got.dtype == np.float32
        assert_close(got, want)
        assert cosine(got, want) >= 0.99999


def test_activations_of_dense_modules(tmp_path: Path) -> None:
    """Every activation that is taken, one Dense module after another."""
    model, _ = save_model("Model", tmp_path)
    write_modules(tmp_path, {"pooling_mode": "mean"}, *["Dense"] * len(ACTIVATIONS))
    torch.manual_seed(2)
    layers = []
    for i, name in enumerate(ACTIVATIONS):
        linear = torch.nn.Linear(WIDTH, WIDTH)
        write_dense(tmp_path, 2 + i, linear, f"torch.nn.modules.activation.{name}")
        layers += [linear, getattr(torch.nn, name)()]
    ids = torch.arange(9)[None] + 5
    with torch.no_grad():
        want = torch.nn.Sequential(*layers)(model(ids).last_hidden_state[0].mean(0))
    got = canao.compile(tmp_path).run(ids.numpy())["sentence_embedding"][0]
    assert_close(got, want, tolerance=SHALLOW)
    assert np.ptp(got) > 0.01


def test_texts_are_read_as_sentence_transformers_reads_them(tmp_path: Path) -> None:
    """Cut at its own length, in lower case, after its prompt."""
    model, tokenizer = save_model("Model", tmp_path)
    prompts = {"prompts": {"query": "Ada "}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    write_modules(tmp_path, {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False},
                  max_seq_length=8, do_lower_case=True)  # fmt: skip
    compiled = canao.compile(tmp_path)
    ready = compiled.prepare(TEXT)
    assert len(ready.windows[0].ids) == 8 and ready.cut > 8
    with pytest.raises(canao.InputError, match="the model takes 8"):
        compiled.predict(TEXT, truncate=False)
    (tmp_path / "sentence_bert_config.json").unlink()
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert read_sentence(tmp_path).max_tokens == settings["model_max_length"] == LONGEST
    with torch.no_grad():
        hidden = model(**tokenizer("ada lovelace", return_tensors="pt")).last_hidden_state[0]
    assert_close(compiled.predict("LOVELACE"), hidden.mean(0))


def test_a_head_that_was_trained_is_not_read(tmp_path: Path) -> None:
    model, _ = save_model("ForMaskedLM", tmp_path)
    write_modules(tmp_path, {"pooling_mode": "cls"})
    ids = torch.arange(9)[None] + 5
    with torch.no_grad():
        want = model.bert(ids).last_hidden_state[0, 0]
    got = canao.compile(tmp_path).run(ids.numpy())["sentence_embedding"][0]
    assert_close(got, want)


def test_directories_that_are_refused(tmp_path: Path) -> None:
    save_model("Model", tmp_path)
    dense = tmp_path / "2_Dense"

    def refused(error: type[canao.CanaoError], words: str) -> None:
        with pytest.raises(error, match=words) as raised:
            canao.compile(tmp_path)
        assert "\n" not in str(raised.value)

    write_modules(tmp_path, {"pooling_mode": "cls"}, "LSTM")
    refused(canao.UnsupportedError, "module LSTM: recurrent")
    write_modules(tmp_path, {"pooling_mode": "attention"})
    refused(canao.UnsupportedError, "attention")
    write_modules(tmp_path, {"pooling_mode": "cls"}, inner="../" + tmp_path.name)
    refused(canao.InputError, "leaves the directory")
    (tmp_path / "gone").mkdir()
    write_modules(tmp_path, {"pooling_mode": "cls"}, inner="gone")
    refused(canao.InputError, r"gone: no config\.json")
    write_modules(tmp_path, {"pooling_mode": "cls"}, "Dense")
    refused(canao.InputError, r"2_Dense/config\.json")
    write_dense(tmp_path, 2, torch.nn.Linear(WIDTH, 4), "os.system")
    refused(canao.UnsupportedError, r"'os\.system'.*Tanh")
    write_dense(tmp_path, 2, torch.nn.Linear(WIDTH + 1, 4), "torch.nn.Tanh")
    refused(canao.InputError, "takes 49 numbers and is given 48")
    save_file({"other": torch.zeros(1)}, dense / "model.safetensors")
    refused(canao.InputError, r"no linear\.weight and linear\.bias that fit")
    (dense / "model.safetensors").write_bytes(b"short")
    refused(canao.InputError, r"model\.safetensors: cannot be read")
    (dense / "model.safetensors").rename(dense / "pytorch_model.bin")
    refused(canao.InputError, "pickled")
    (tmp_path / "modules.json").write_text("[]")
    refused(canao.InputError, r"modules\.json")


def test_beside_an_onnx_file(tmp_path: Path) -> None:
    """Pooling of a graph that came without it is left to Python; Dense needs its weights."""
    from canao.model.directory.onnx_sidecar import read_sidecar

    save_model("Model", tmp_path)
    write_modules(tmp_path, {"pooling_mode": "mean"}, "Normalize")
    columns = {"last_hidden_state": WIDTH}
    head = describe_head(read_sidecar(tmp_path / "model.onnx", columns), ["last_hidden_state"])
    assert head["task"] == "sentence-embedding" and head["pooling"]["normalize"]
    write_modules(tmp_path, {"pooling_mode": "mean"}, "Dense")
    write_dense(tmp_path, 2, torch.nn.Linear(WIDTH, 4), "torch.nn.Tanh")
    with pytest.raises(canao.UnsupportedError, match=r"beside an \.onnx file only"):
        read_sidecar(tmp_path / "model.onnx", columns)


def test_minilm(minilm: Path) -> None:
    """Mean over all tokens, scaled to length 1, texts cut at 256 tokens: what its authors ship."""
    model = transformers.AutoModel.from_pretrained(minilm).eval()
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    texts = [*tokens.SENTENCES, "word " * 400]
    compiled = canao.compile(minilm)
    for text, got in zip(texts, compiled.predict(texts), strict=True):
        with torch.no_grad():
            out = model(torch.tensor([tokenizer.encode(text).ids]))
        want = out.last_hidden_state[0].mean(0)
        assert got.shape == (384,) and abs(np.linalg.norm(got) - 1) < 1e-6
        assert cosine(got, want) >= 0.99999
