"""Directories as users have them: half precision, shards, tied weights; and what is wrong there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from canao.compiler.loading import load_model
from canao.errors import InputError, UnsupportedError
from canao.graph.interp import outputs
from canao.model.directory.loaded_model import load_directory
from tests.compiler.families import FAMILIES, make, reference
from tests.compiler.models import classifier
from tests.oracle import assert_close

IDS = np.arange(9, dtype=np.int32)
INDEX = "model.safetensors.index.json"


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_in_shards_without_tied_weights(family: str, tmp_path: Path) -> None:
    """Weights are read as float32, from as many files as there are, and tied again."""
    dtype = (torch.float16, torch.bfloat16)[list(FAMILIES).index(family) % 2]
    model = make(family, "ForMaskedLM").to(dtype)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    stored = {name for file in shards(tmp_path) for name in load_file(file)}
    assert len(shards(tmp_path)) > 1 and stored < set(model.state_dict())
    module = load_directory(tmp_path).module
    assert all(p.dtype == torch.float32 for p in module.parameters())
    whole = make(family, "ForMaskedLM")
    whole.load_state_dict(model.state_dict())
    want = reference(whole, ("input_ids",), [IDS])["logits"]
    got = reference(module, ("input_ids",), [IDS])["logits"]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("family", ("Roberta", "DebertaV2"))
def test_a_directory_becomes_the_graph_of_its_model(family: str, tmp_path: Path) -> None:
    """With attention in parts where Transformers has no other; xielu's bfloat16 becomes float32."""
    model = make(family, "ForTokenClassification", hidden_act="xielu")
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    source, graph = load_model(tmp_path)
    assert all(p.dtype == torch.float32 for p in source.module.parameters())
    names = tuple(i.name for i in graph.inputs)
    ids = [IDS, np.zeros_like(IDS)][: len(names)]
    want = reference(model, names, ids)["logits"]
    assert_close(outputs(graph, ids)[0], want)


def _cut(folder: Path) -> None:
    shards(folder)[1].write_bytes(shards(folder)[1].read_bytes()[:-100])


def _no_header(folder: Path) -> None:
    shards(folder)[1].write_bytes(b"\xff" * 200)


def _long_header(folder: Path) -> None:
    content = shards(folder)[1].read_bytes()
    shards(folder)[1].write_bytes((2**40).to_bytes(8, "little") + content[8:])


def _without_a_weight(folder: Path) -> None:
    tensors = load_file(shards(folder)[0])
    del tensors[sorted(tensors)[0]]
    save_file(tensors, shards(folder)[0], metadata={"format": "pt"})


def _index(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / INDEX).write_text(text) and None


def _configured(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


_DAMAGED = r"model-00002-of-\d+\.safetensors: damaged .*; download it again"
_UNREADABLE = r"index\.json: does not say for each weight which file of this directory holds it"
WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda f: shards(f)[-1].unlink(), r"model-\d+-of-\d+\.safetensors: no such file"),
    "cut": (_cut, _DAMAGED),
    "empty": (lambda f: shards(f)[1].write_bytes(b"") and None, _DAMAGED),
    "no header": (_no_header, _DAMAGED),
    "long header": (_long_header, _DAMAGED),
    "index of no JSON": (_index("{"), r"index\.json: cannot be read as JSON"),
    "index of a list": (_index("[]"), r"index\.json: expected object, got array"),
    "index without a map": (_index("{}"), _UNREADABLE),
    "index of numbers": (_index('{"weight_map": {"a": 3}}'), _UNREADABLE),
    "index of other places": (_index('{"weight_map": {"a": "../x.safetensors"}}'), _UNREADABLE),
    "weight missing": (_without_a_weight, r"lacks 1 weights, first \S+; "),
    "vocabulary": (_configured(vocab_size=77),
                   r"word_embeddings\.weight has shape \(99, 20\) where config\.json calls for "
                   r"\(77, 20\); give"),
    "width": (_configured(intermediate_size=64), r"has shape \(60,\) where .* \(64,\)"),
    "heads": (_configured(num_attention_heads=5), r"has shape \(48,\) where .* \(45,\)"),
    "size of no number": (_configured(hidden_size="x"), r"config\.json: .*'hidden_size'"),
    "activation": (_configured(hidden_act="none such"), r"config\.json: .*'none such'"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    damage, message = WRONG[name]
    make("Electra").save_pretrained(tmp_path, max_shard_size="40KB")
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as refused:
        load_directory(tmp_path)
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)


def test_other_safetensors_are_not_the_model(tmp_path: Path) -> None:
    make("Electra").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "adapter.safetensors")
    with pytest.raises(UnsupportedError, match=r"adapter\.safetensors: no file of this name"):
        load_directory(tmp_path)
    (tmp_path / "adapter.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors; save the model"):
        load_directory(tmp_path)


def test_code_of_a_model_directory_never_runs(tmp_path: Path) -> None:
    classifier("small", layers=1).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UnsupportedError, match=r"own\.py: CANAO runs no code of a model directory"):
        load_model(tmp_path)
    # Code may also lie in another repository, which the entry names.
    (tmp_path / "own.py").rename(tmp_path.with_name("own.py"))
    with pytest.raises(UnsupportedError, match=r"'auto_map' .*CANAO runs no code .*save the model"):
        load_model(tmp_path)
    assert not (tmp_path / "ran").exists()
