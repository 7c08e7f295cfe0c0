"""Models whose layers have shapes and precisions of their own: in Transformers, and compiled."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_model
from canao.defaults import LIMITS
from canao.errors import CanaoError, InputError
from canao.fuse.simplify import rewritten
from canao.graph.interp import interpret
from canao.inference.compiled_model import CompiledModel
from canao.model import hf
from canao.model.arch import Arch, Block
from canao.model.blocks import BlockBertModel
from canao.model.directory.loaded_model import load_directory
from canao.precision.quantize import in_precision, of_parts
from tests.conftest import LENGTHS
from tests.oracle import HALF_COST, OF_STATES, ONE_LEVEL, SAME, SHALLOW, assert_close

SHAPE = Arch(40, 8, (Block(5, 33), Block(2, 0), Block(0, 70), Block(1, 9)))
CONFIG = BertConfig(
    vocab_size=300, max_position_embeddings=128, initializer_range=0.2, num_labels=3,
    hidden_size=40, num_hidden_layers=4, num_attention_heads=5, intermediate_size=70,
)  # fmt: skip


def model_of(arch: Arch) -> PreTrainedModel:
    torch.manual_seed(1)
    model = hf.build_classifier(hf.student_config(CONFIG, arch)).eval()
    with torch.no_grad():  # norms and biases that do something
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
    return model


def text(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, 300, length).astype(np.int32)


def logits(model: PreTrainedModel, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(ids)[None].long()).logits[0].numpy()


def test_blocks_are_what_is_left_of_whole_layers() -> None:
    """Against plain BERT with the same weights, whose heads and units that a block lacks give
    nothing; halves that a layer lacks are left out by hooks."""
    whole, model = model_of(Arch.uniform(4, 40, 5, 70)), model_of(SHAPE)
    assert isinstance(whole, BertForSequenceClassification)
    state, hooks = whole.state_dict(), []
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            cut = tuple(slice(0, n) for n in weight.shape)
            state[name].zero_()
            state[name][cut] = weight
    for layer, block in zip(whole.bert.encoder.layer, SHAPE.blocks, strict=True):
        if not block.heads:
            passed = lambda module, given, out: (given[0], None)  # noqa: E731
            hooks.append(layer.attention.register_forward_hook(passed))
        if not block.ffn:
            hooks.append(layer.output.register_forward_hook(lambda module, given, out: given[1]))
    for length in (1, 31):
        ids = text(length)
        assert_close(logits(model, ids), logits(whole, ids), tolerance=SHALLOW, relative=OF_STATES)


def test_uniform_blocks_are_plain_bert() -> None:
    arch = Arch.uniform(2, 40, 5, 33)
    assert type(model_of(arch)) is BertForSequenceClassification
    assert hf.arch_of(hf.student_config(CONFIG, arch)) == arch
    assert hf.arch_of(hf.student_config(CONFIG, SHAPE)) == SHAPE


def test_libraries_are_right(tmp_path: Path) -> None:
    model = model_of(SHAPE)
    model.save_pretrained(tmp_path / "model")
    artifact = compile_model(tmp_path / "model", tmp_path / "out")
    assert artifact.manifest["model"] == "canao-bert"
    assert not any(artifact.manifest["kept"].values())
    with CompiledModel(artifact) as compiled:
        for length in LENGTHS:
            ids = text(length)
            found = np.ravel(compiled(ids, np.zeros_like(ids)))
            assert_close(found, logits(model, ids), tolerance=SHALLOW, relative=OF_STATES)


def test_layers_have_precisions_of_their_own(tmp_path: Path) -> None:
    """Two of four, as the manifest says; results are the interpreter's of the same graph, and near
    float32's, which `parts=False` compiles."""
    arch = Arch(40, 8, (Block(5, 33), Block(2, 16, "int8"), Block(0, 70, "bf16"), Block(1, 9)))
    model = model_of(arch)
    model.save_pretrained(tmp_path / "model")
    artifact = compile_model(tmp_path / "model", tmp_path / "out", allow_emulation=True)
    kept = artifact.manifest["kept"]
    layers = {p: {w.split(".")[3] for w in places} for p, places in kept.items()}
    assert layers == {"int8": {"1"}, "bf16": {"2"}} and artifact.manifest["precision"] == "float32"
    assert 0.9 < artifact.manifest["agreement"]["cosine"] < 1
    graph = load_model(tmp_path / "model")[1]
    float32 = rewritten(graph, True, LIMITS)[1]
    narrow = in_precision(float32, "float32", of_parts(float32))
    with CompiledModel(artifact) as compiled:
        for length in (1, 7, 33, 128):
            ids = text(length)
            given = [ids, np.zeros_like(ids)]
            want = interpret(narrow, given, np.float32)[narrow.outputs[0][1]]
            found = np.ravel(compiled(*given))
            assert_close(found, np.ravel(want), tolerance=ONE_LEVEL)
            assert_close(found, logits(model, ids), tolerance=HALF_COST)
    assert graph.parts == (("bert.encoder.layer.1", "int8"), ("bert.encoder.layer.2", "bf16"))


def test_transformers_reads_them_by_the_module_alone(tmp_path: Path) -> None:
    model = model_of(SHAPE)
    model.save_pretrained(tmp_path)
    script = (
        "import sys, torch, transformers, canao.model.blocks\n"
        "model = transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[1])\n"
        "print(model.eval()(torch.arange(9)[None]).logits[0].tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    )
    want = logits(model, np.arange(9, dtype=np.int32))
    assert_close(json.loads(done.stdout.splitlines()[-1]), want, tolerance=SAME)


def test_token_vectors_alone(tmp_path: Path) -> None:
    """A bare encoder, with its pooler."""
    torch.manual_seed(0)
    model = BlockBertModel(hf.student_config(CONFIG, SHAPE)).eval()
    model.save_pretrained(tmp_path)
    loaded = load_directory(tmp_path)
    ids = torch.arange(7)[None]
    with torch.no_grad():
        want, found = model(ids).last_hidden_state, loaded.module(ids).last_hidden_state
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block_heads": [5, 2, 0]}, "num_hidden_layers is 4.* have 3, 4 and 4 entries"),
        ({"block_heads": [5, 2, 0, -1]}, "block_heads.* is no size"),
        ({"block_heads": [0, 0, 0, 0], "num_attention_heads": 1}, "neither heads nor ffn"),
        ({"block_ffn": "many"}, "block's ffn is 'm'"),
        ({"block_ffn": [33, 0, 70, "9"]}, "block's ffn is '9'"),
        ({"num_attention_heads": 4}, "num_attention_heads.* 4, 4, 70.* 4, 5, 70"),
        ({"intermediate_size": 64}, "intermediate_size.* 4, 5, 64.* 4, 5, 70"),
        ({"head_size": 0}, "head_size"),
        ({"head_size": 16}, "has shape"),
        ({"block_precisions": ["", "int3", "", ""]}, "precision 'int3' in bert.encoder.layer.1"),
        ({"block_precisions": ["", "9!", "", ""]}, "block's precision is '9!'"),
        ({"block_width": 3}, "block_width"),
        ({"architectures": ["BertForSequenceClassification"]}, "not a class of .* canao-bert"),
        ({"architectures": ["BlockBertForNothing"]}, "BlockBertForNothing"),
    ],
)
def test_bad_configurations(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    model_of(SHAPE).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CanaoError, match=words) as raised:
        compile_model(tmp_path / "model", tmp_path / "out")
    assert "\n" not in str(raised.value) and "config.json" in str(raised.value) + words
    assert not (tmp_path / "out").exists()


def test_architectures_have_one_text_and_one_json() -> None:
    assert str(SHAPE) == "H40 D8 5+33 2+0 0+70 1+9"
    twice = Arch(40, 8, (Block(5, 33, "int8"),) * 2 + (Block(1, 1),))
    assert str(twice) == "H40 D8 2x5+33:int8 1+1"
    for arch in (SHAPE, twice, Arch.uniform(2, 40, 5, 33)):
        assert Arch.from_json(arch.to_json()) == arch
    odd: list[object] = [[], "four", [{"heads": 1}], [{"heads": 1, "ffn": 1.5}],
                         [{"heads": 1, "ffn": 1, "x": 2}],
                         [{"heads": 1, "ffn": 1, "precision": 2}]]  # fmt: skip
    for blocks in odd:
        with pytest.raises(InputError, match="give"):
            Arch.of({"hidden": 4, "head_size": 2, "blocks": blocks}, "here")
    with pytest.raises(InputError, match="give"):
        Arch.from_json('{"hidden": 4}')


def test_flops_are_those_of_the_products() -> None:
    plain = Arch.uniform(3, 40, 5, 70)
    assert plain.flops(10) == 3 * 2 * (10 * (4 * 40 * 40 + 2 * 40 * 70) + 2 * 10 * 10 * 40)
    halves = Arch(40, 8, (Block(5, 0), Block(0, 70)))
    assert 3 * halves.flops(10) == plain.flops(10)
    assert halves.no_larger_than(plain) and not plain.no_larger_than(halves)


def test_precisions_hold_under_an_embedding(tmp_path: Path) -> None:
    """A Sentence-Transformers directory, whose modules lie around the model."""
    torch.manual_seed(0)
    arch = Arch(40, 8, (Block(5, 33), Block(2, 16, "int8")))
    model = BlockBertModel(hf.student_config(CONFIG, arch)).eval()
    model.save_pretrained(tmp_path)
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"))
    (tmp_path / "modules.json").write_text(json.dumps([
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]))  # fmt: skip
    (tmp_path / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 40, "pooling_mode_mean_tokens": True}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    graph = load_model(tmp_path)[1]
    assert [precision for _, precision in graph.parts] == ["int8"]
    own = of_parts(rewritten(graph, True, LIMITS)[1])
    assert len(own) == 4 and set(own.values()) == {"int8"}


def test_a_part_without_products_is_refused() -> None:
    graph = load_model(model_of(SHAPE))[1].replace(parts=(("bert.encoder.layer.9", "int8"),))
    with pytest.raises(InputError, match=r"layer\.9, where no product is known"):
        of_parts(rewritten(graph, True, LIMITS)[1])
