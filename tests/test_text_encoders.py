"""Encoders of families with a decoder, and decoders as encoders of text: the vectors of
Sentence-Transformers, and of Transformers for a directory without modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from tokenizers.processors import TemplateProcessing

import canao
from canao.compiler.loading import load_model
from canao.graph.interp import outputs
from canao.model.directory.loaded_model import load_directory
from tests import tokens
from tests.heads import fast_tokenizer
from tests.oracle import assert_close
from tests.sentence_models import encoded

TEXTS = ("Ada", "Ada Lovelace worked in London.", " ".join(tokens.SENTENCES[:2]))


def sizes(vocabulary: int) -> dict[str, Any]:
    return {"vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
            "head_dim": 8}  # fmt: skip


def made(family: str, vocabulary: int) -> Any:
    """A small random model without a head, by its family."""
    five = {"vocab_size": vocabulary, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
            "num_heads": 4, "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 20, "pad_token_id": 1}  # fmt: skip
    own = sizes(vocabulary)
    two = {"vocab_size": vocabulary, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    models = {
        "t5": lambda: t.T5EncoderModel(t.T5Config(**five)),
        "mt5": lambda: t.MT5EncoderModel(t.MT5Config(**five, feed_forward_proj="gated-gelu")),
        "umt5": lambda: t.UMT5EncoderModel(t.UMT5Config(**five)),
        "gpt2": lambda: t.GPT2Model(t.GPT2Config(**two)),
        "llama": lambda: t.LlamaModel(t.LlamaConfig(**own)),
        "mistral": lambda: t.MistralModel(t.MistralConfig(**own, sliding_window=8)),
        "qwen3": lambda: t.Qwen3Model(t.Qwen3Config(**own)),
        "gemma3_text": lambda: t.Gemma3TextModel(
            t.Gemma3TextConfig(**own, use_bidirectional_attention=True, sliding_window=16)
        ),
    }
    torch.manual_seed(4)
    model = models[family]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    return model


def tokenizer_for(family: str) -> Any:
    """Byte-level, with an end of text after every text, as Qwen3-Embedding's."""
    made = fast_tokenizer("BPE")
    end = TemplateProcessing(single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", 2)])
    made.backend_tokenizer.post_processor = end
    return made


POOLINGS = {"t5": "mean", "mt5": "mean", "umt5": "mean", "gpt2": "weightedmean",
            "gemma3_text": "mean"}  # fmt: skip


FAMILIES = ("t5", "mt5", "umt5", "gpt2", "llama", "mistral", "qwen3", "gemma3_text")
COMPILED = ("umt5", "mistral", "gemma3_text")


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_sentence_transformers(family: str, tmp_path: Path) -> None:
    """By the library, and of families that differ in nothing new by the graph alone."""
    tokenizer = tokenizer_for(family)
    model = made(family, len(tokenizer))
    model.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    first = modules.Transformer(str(tmp_path / "plain"))
    parts = [first, modules.Pooling(32, POOLINGS.get(family, "lasttoken")), modules.Normalize()]
    SentenceTransformer(modules=parts, device="cpu").save(str(tmp_path / "model"))
    oracle = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    if family in COMPILED:
        compiled = canao.compile(tmp_path / "model")
        assert compiled.artifact.manifest["task"] == "sentence-embedding"
        for text in TEXTS:
            assert_close(compiled.predict(text), encoded(oracle, text), text)
        return
    _, graph = load_model(tmp_path / "model")
    place = [name for name, _ in graph.outputs].index("sentence_embedding")
    for text in TEXTS:
        ids = np.array(tokenizer(text, truncation=True)["input_ids"])
        given = [ids, ids * 0][: len(graph.inputs)]
        assert_close(outputs(graph, given)[place][0], encoded(oracle, text), text)


@pytest.mark.parametrize("saved", ("encoder", "whole"))
def test_t5_without_modules(saved: str, tmp_path: Path) -> None:
    """An encoder by itself is compiled; with its decoder it is refused, and the remedy works."""
    tokenizer = tokenizer_for("t5")
    encoder = made("t5", len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    if saved == "whole":
        t.T5ForConditionalGeneration(encoder.config).save_pretrained(tmp_path)
        with pytest.raises(canao.UnsupportedError, match="T5ForConditionalGeneration") as raised:
            load_directory(tmp_path)
        assert "T5EncoderModel" in str(raised.value) and "\n" not in str(raised.value)
        encoder = t.T5EncoderModel.from_pretrained(tmp_path)
    encoder.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["T5EncoderModel"]
    compiled = canao.compile(tmp_path)
    assert compiled.artifact.manifest["task"] == "feature-extraction"
    for length in (1, 7, 33, 64):
        ids = torch.arange(length)[None] * 3 % 90 + 5
        with torch.no_grad():
            want = encoder(ids).last_hidden_state
        assert_close(compiled(ids.numpy()), want, str(length))


def test_operators_are_named_without_their_address(tmp_path: Path) -> None:
    """What vmap calls is a function of Python, which prints itself with its place in memory."""
    tokenizer = tokenizer_for("gemma3_text")
    made("gemma3_text", len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(canao.UnsupportedError, match="batch_dim") as raised:
        load_model(tmp_path)
    assert all(" at 0x" not in str(problem) for problem in raised.value.problems)
