"""Sizes that config.json claims, and damaged weights: known before anything is allocated."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from canao.defaults import Limits
from canao.errors import InputError
from canao.model.directory.limits import check_module, check_sizes, stored_layers, stored_shapes
from canao.model.inventory.inventory import Inventory
from canao.model.inventory.tables.config import CONFIG

_SMALL = {"vocab_size": 60, "max_position_embeddings": 64}
_BERT = {**_SMALL, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 32}  # fmt: skip
# name -> class, configuration: as each family calls its sizes.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Bert": ("ForSequenceClassification", _BERT),
    "Albert": ("Model", {**_BERT, "embedding_size": 8, "num_hidden_layers": 5}),
    "DistilBert": ("Model", {**_SMALL, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}),
    "DebertaV2": ("Model", {**_BERT, "type_vocab_size": 0, "relative_attention": True,
                            "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}),
    "ModernBert": ("Model", {**_BERT, "max_position_embeddings": 8192, "pad_token_id": 0}),
    "GPT2": ("LMHeadModel", {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2,
                             "n_positions": 64}),
    "Llama": ("ForCausalLM", {**_BERT, "max_position_embeddings": 8192}),
}  # fmt: skip


class Masked(torch.nn.Module):
    """A class with a mask of all positions, as decoders had them."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(10**6, 10**6).tril())


def save(folder: Path, name: str = "Bert") -> tuple[Any, dict[str, Any]]:
    """A tiny model in `folder`: the module, and what its config.json holds."""
    end, sizes = MODELS[name]
    config = getattr(transformers, f"{name}Config")(**sizes)
    module = getattr(transformers, f"{name}{end}")(config)
    module.save_pretrained(folder)
    return module, json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", MODELS)
def test_models_as_they_are_saved_are_accepted(name: str, tmp_path: Path) -> None:
    module, settings = save(tmp_path, name)
    check_sizes(tmp_path, settings)
    check_module(tmp_path, type(module), module.config)


@pytest.mark.parametrize(("family", "entry", "value", "word"), [
    ("Bert", "num_hidden_layers", 10**5, "of 2 layers"),
    ("Bert", "num_hidden_layers", 0, "whole number from 1"),
    ("Bert", "num_hidden_layers", -1, "whole number from 1"),
    ("Bert", "num_hidden_layers", True, "whole number from 1"),
    ("Bert", "num_attention_heads", 0, "whole number from 1"),
    ("Bert", "hidden_size", 10**6, "no weight has more than 64"),
    ("Bert", "hidden_size", "wide", "whole number from 1"),
    ("Bert", "vocab_size", 10**9, "no weight has more than 64"),
    ("Bert", "intermediate_size", -4, "whole number from 1"),
    ("Bert", "type_vocab_size", -2, "no size"),
    ("Bert", "max_position_embeddings", -1, "no size"),
    ("Bert", "num_labels", 10**9, "no weight has more than 64"),
    ("Bert", "id2label", {str(i): "x" for i in range(10**5)}, "no weight has more than 64"),
    ("GPT2", "n_layer", 10**5, "of 2 layers"),
    ("GPT2", "n_head", 0, "whole number from 1"),
    ("GPT2", "n_embd", 10**6, "no weight has more than 64"),
    ("DistilBert", "n_layers", 3, "of 2 layers"),
    ("DistilBert", "hidden_dim", -1, "no size"),
    ("Albert", "num_hidden_layers", 10**5, "--max-nodes"),
])  # fmt: skip
def test_sizes_that_no_weights_have(
    family: str, entry: str, value: Any, word: str, tmp_path: Path
) -> None:
    _, settings = save(tmp_path, family)
    with pytest.raises(InputError, match=word) as error:
        check_sizes(tmp_path, {**settings, entry: value})
    assert f"'{entry}'" in str(error.value) and "\n" not in str(error.value)


def test_what_a_class_would_allocate(tmp_path: Path) -> None:
    """Weights and tables are counted on a module without memory."""
    module, settings = save(tmp_path)
    for sizes, word in (({"max_position_embeddings": 10**9}, "the files hold"),
                        ({"num_attention_heads": 3}, "cannot be built")):  # fmt: skip
        config = transformers.BertConfig.from_dict({**settings, **sizes})
        with pytest.raises(InputError, match=word):
            check_module(tmp_path, type(module), config)
    with pytest.raises(InputError, match="tables of 4000"):
        check_module(tmp_path, Masked, config)


def test_limits_are_lifted_by_options(tmp_path: Path) -> None:
    _, settings = save(tmp_path)
    for limits, word in ((Limits(nodes=3), "--max-nodes"), (Limits(memory=1000), "--max-memory 1")):
        with pytest.raises(InputError, match=word):
            check_sizes(tmp_path, settings, limits)


def test_layers_are_numbered_in_names() -> None:
    assert stored_layers(["h.0.attn.weight", "h.11.attn.weight", "wte.weight"]) == 12
    assert stored_layers(["bert.encoder.layer.3.ffn.7.weight", "classifier.bias"]) == 4
    assert stored_layers(["wte.weight", "v1.weight"]) == 0


def header(entries: Any, data: int = 16, *, size: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + bytes(data)


def entry(shape: list[int], start: int, stop: int, kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, stop]}


DAMAGED: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "too short": lambda: b"\x08\0\0",
    "header past its end": lambda: header({}, size=1000),
    "huge header": lambda: header({}, size=1 << 60),
    "no JSON": lambda: header(b"{not json"),
    "nested": lambda: header(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "unknown type": lambda: header({"w": entry([4], 0, 16, "F31")}),
    "outside": lambda: header({"w": entry([400], 0, 1600)}),
    "backwards": lambda: header({"w": entry([4], 16, 0)}),
    "overlapping": lambda: header({"a": entry([4], 0, 16), "b": entry([2], 8, 16)}),
    "a gap": lambda: header({"a": entry([1], 0, 4), "b": entry([2], 8, 16)}),
    "other shape": lambda: header({"w": entry([5], 0, 16)}),
    "overflow": lambda: header({"w": entry([1 << 40, 1 << 40], 0, 16)}),
    "negative": lambda: header({"w": entry([-4], 0, 16)}),
    "unprintable": lambda: header({"w\n\x1b[31m": entry([4], 0, 16)}),
    "bytes left": lambda: header({"w": entry([2], 0, 8)}),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_weights(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(DAMAGED[name]())
    with pytest.raises(InputError, match="safetensors: ") as error:
        stored_shapes(tmp_path)
    text = str(error.value)
    assert text.isprintable(), text


def test_shapes_are_read_without_the_weights(tmp_path: Path) -> None:
    """A file whose weights take more memory than there is tells its shapes at once."""
    arrays = {"a": np.zeros((3, 4), np.float32), "b": np.zeros(2, np.float16)}
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    assert stored_shapes(tmp_path) == {"a": (3, 4), "b": (2,)}
    size = 1 << 40
    with open(tmp_path / "model.safetensors", "wb") as stream:
        stream.write(header({"w": entry([size // 4], 0, size)}, 0))
        stream.truncate(stream.tell() + size)  # no disk is taken for them
    with pytest.raises(InputError, match=r"as float32, more than .*; give --max-memory 1100"):
        stored_shapes(tmp_path)


def test_settings_without_end(tmp_path: Path) -> None:
    """Ten million labels are refused before they are read."""
    file = tmp_path / "config.json"
    with open(file, "w", encoding="utf-8") as stream:
        stream.write('{"id2label": {')
        stream.writelines(f'"{i}": "label", ' for i in range(2_000_000))
        stream.write('"x": "y"}}')
    with pytest.raises(InputError, match="more than 33554432 bytes"):
        Inventory(tmp_path).settings(file, CONFIG)
