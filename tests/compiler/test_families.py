"""Every family with every head, compiled, against Transformers in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.activations import ACT2CLS

from canao.build import Toolchain, get_toolchain
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.compiler.stages import Stages
from canao.errors import InputError, ToolchainError, UnsupportedError
from canao.fuse.forms.attention import Attention
from canao.graph.interp import outputs
from canao.inference.compiled_model import CompiledModel
from canao.target import get_target
from tests.compiler.families import FAMILIES, HEADS, make, reference, text
from tests.conftest import LENGTHS, thoroughly
from tests.oracle import SHALLOW, assert_close

# For modules of which a part is compiled as shipped; without clang's own checks.
QUICK = ("-O0", "-fno-sanitize=undefined")


def other_toolchain() -> Toolchain:
    """gcc, so that it compiles some, too; where there is none, the default does."""
    try:
        return get_toolchain("gcc")
    except ToolchainError:
        return get_toolchain()


def stages(model: torch.nn.Module, max_length: int | None = None) -> Stages:
    return compile_graph(load_model(model, max_length)[1], get_target())


def assert_graph(model: torch.nn.Module, staged: Stages, lengths: tuple[int, ...]) -> None:
    graph = staged.program.graph
    names = tuple(i.name for i in graph.inputs)
    for length in lengths:
        ids = text(model, names, length)
        want = reference(model, names, ids)
        for (name, _), got in zip(graph.outputs, outputs(graph, ids), strict=True):
            assert_close(got, want[name], f"{name} at length {length}")


def assert_compiled(
    model: torch.nn.Module, folder: Path, lengths: tuple[int, ...], threads: int = 2, **how: Any
) -> dict[str, Any]:
    """Compile and compare, at the model's maximum, too; the manifest."""
    artifact = compile_model(model, folder / "out", **how)
    manifest = artifact.manifest
    names = tuple(i["name"] for i in manifest["inputs"])
    with CompiledModel(artifact, threads) as compiled:
        for length in (*lengths, manifest["max_length"]):
            ids = text(model, names, length)
            want = reference(model, names, ids)
            got = compiled.run(*(i[None] for i in ids))
            assert got.keys() == want.keys()
            for name, value in got.items():
                assert_close(value, want[name], f"{name} at length {length}")
    return manifest


PAIRS = {(family, head): (j - i) % len(HEADS)
         for i, family in enumerate(FAMILIES) for j, head in enumerate(HEADS)}  # fmt: skip
ZIG, GCC = 0, 2  # of PAIRS: what a library is compiled by


COMPILED = [pair for pair, place in PAIRS.items() if place in (ZIG, GCC)]


@pytest.mark.parametrize(("family", "head"), [p for p in PAIRS if p not in COMPILED])
def test_graphs(family: str, head: str) -> None:
    """The other pairs, rewritten, as NumPy computes them."""
    model = make(family, head)
    assert_graph(model, stages(model), (1, 7, 33, 128))


@pytest.mark.parametrize(("family", "head"), thoroughly(COMPILED, PAIRS))
def test_libraries(family: str, head: str, tmp_path: Path) -> None:
    """Each family and each head by the toolchain that CANAO comes with, and by another."""
    how = {} if PAIRS[family, head] == ZIG else {"toolchain": other_toolchain()}
    assert_compiled(make(family, head), tmp_path, LENGTHS, **how)


@pytest.mark.parametrize("family", ("Roberta", "DebertaV2", "ModernBert"))
def test_libraries_without_fusion(family: str, tmp_path: Path) -> None:
    assert_compiled(make(family), tmp_path, (1, 7, 33, 128), fusion=False)


KERNELS = {"Bert": 5, "Roberta": 5, "Electra": 5, "Albert": 5, "DistilBert": 5, "MPNet": 5,
           "DebertaV2": 7, "ModernBert": 10, "MobileBert": 13, "ConvBert": 16,
           "SqueezeBert": 27}  # fmt: skip


@pytest.mark.parametrize("family", KERNELS)
def test_kernels_of_a_layer(family: str) -> None:
    """Attention is one region in each, whatever is added to its scores."""
    few, more = 2, 4
    counts = []
    for layers in (few, more):
        key = "n_layers" if family == "DistilBert" else "num_hidden_layers"
        staged = stages(make(family, **{key: layers}))
        forms = [r.form for r in staged.program.regions]
        assert sum(isinstance(f, Attention) for f in forms) == layers
        counts.append(len(forms))
    assert counts[1] - counts[0] == KERNELS[family] * (more - few)


def test_local_attention_visits_a_window() -> None:
    program = stages(make("ModernBert")).program
    windows = [r.form.window for r in program.regions if isinstance(r.form, Attention)]
    assert windows == [None, (8, 8), None]


def test_wide_windows_and_tiles(tmp_path: Path) -> None:
    """Longer than a tile of keys: most of them are outside the window."""
    model = make("ModernBert", num_hidden_layers=2, local_attention=4, hidden_size=32,
                 num_attention_heads=2, max_position_embeddings=1100)  # fmt: skip
    assert_compiled(model, tmp_path, (5, 513, 1030))


DISTANCES = ((8, -1), (-1, 20), (16, 64))


@pytest.mark.parametrize("shared", (True, False))
@pytest.mark.parametrize("terms", (["c2p"], ["p2c"], ["p2c", "c2p"], []), ids="-".join)
def test_disentangled_attention(terms: list[str], shared: bool) -> None:
    """Each term by itself, with buckets and with plain distances, shorter than the text, too. Of
    the three each two choices meet: keys are shared with two distances, and with the third not."""
    for i, (buckets, farthest) in enumerate(DISTANCES):
        if shared is ((i + len(terms)) % 2 == 0):
            model = make("DebertaV2", pos_att_type=terms, share_att_key=shared,
                         position_buckets=buckets, max_relative_positions=farthest,
                         position_biased_input=True, type_vocab_size=2,
                         num_hidden_layers=1)  # fmt: skip
            assert_graph(model, stages(model), (1, 17, 140))


class Activations(torch.nn.Module):
    """Each activation of Transformers, of the same numbers."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        from transformers.activations import ACT2FN

        rows = torch.linspace(-9, 9, 64 * 21).reshape(64, 21)
        self.table = torch.nn.Embedding.from_pretrained(rows)
        self.functions = torch.nn.ModuleDict({name: ACT2FN[name] for name in names})

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.table(input_ids)
        return {name: f(x) for name, f in self.functions.items()}


def test_activations(tmp_path: Path) -> None:
    model = Activations(list(ACT2CLS)).float().eval()
    ids = np.arange(64, dtype=np.int32)
    with torch.no_grad():
        want = model(torch.from_numpy(ids).long()[None])
    artifact = compile_model(model, tmp_path / "out", max_length=64)
    with CompiledModel(artifact) as compiled:
        got = compiled.run(ids[None])
    assert got.keys() == want.keys()
    for name, value in got.items():
        assert_close(value, want[name], name, tolerance=SHALLOW)


@pytest.mark.parametrize("kind", ("single_label", "multi_label", "regression"))
def test_kinds_of_classification(kind: str) -> None:
    labels = 1 if kind == "regression" else 5
    problem = kind if kind == "regression" else f"{kind}_classification"
    model = make("Roberta", "ForSequenceClassification", num_labels=labels, problem_type=problem)
    assert_graph(model, stages(model), (1, 12))


def test_positions_skip_padding(tmp_path: Path) -> None:
    """Ids of padding within a text: its position is that of padding, and no other is spent."""
    model = make("Roberta", pad_token_id=5)
    artifact = compile_model(model, tmp_path / "out")
    assert artifact.manifest["max_length"] == 140 - 5 - 1
    ids = np.array([5, 7, 5, 5, 9, 1, 5, 2], np.int32)
    names = tuple(i["name"] for i in artifact.manifest["inputs"])
    every = [ids, np.zeros_like(ids)]
    with CompiledModel(artifact) as compiled:
        got = compiled.run(*(i[None] for i in every))
    want = reference(model, names, every)
    assert_close(got["last_hidden_state"], want["last_hidden_state"])


def test_a_maximum_beyond_the_positions_is_refused() -> None:
    with pytest.raises(InputError, match=r"maximum length 140 is outside 2\.\.138"):
        load_model(make("Roberta"), 140)


@pytest.mark.parametrize("tied", (True, False))
def test_tied_and_untied_vocabularies(tied: bool) -> None:
    model = make("Bert", "ForMaskedLM", tie_word_embeddings=tied)
    same = model.bert.embeddings.word_embeddings.weight is model.cls.predictions.decoder.weight
    assert same == tied
    assert_graph(model, stages(model), (1, 8))


def test_a_large_vocabulary(tmp_path: Path) -> None:
    model = make("XLMRoberta", "ForMaskedLM", vocab_size=250_002, hidden_size=16,
                 num_attention_heads=2, num_hidden_layers=1,
                 max_position_embeddings=12)  # fmt: skip
    assert_compiled(model, tmp_path, (1, 8))


class Refused(torch.nn.Module):
    """A model with an operator that no kernel computes, in a part that has a name."""

    def __init__(self, function) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(9, 4)
        self.head = _Head(function)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(input_ids))


class _Head(torch.nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


REFUSALS = {
    "operator": (lambda x: torch.fft.fft(x).real, r"aten\.fft_fft.* at head .*replace it"),
    "reduction": (lambda x: x.amin(1), r"aten\.amin.* at head .*replace it"),
    "dimension": (lambda x: x.cumsum(1), r"aten\.cumsum.* at head: a running sum.*not supported"),
    "length": (lambda x: x.clamp(max=x.shape[1]), r"at head.*computed from the length"),
    "scalar": (lambda x: x * x.shape[1] ** 0.5, r"at head.*not supported"),
    "dtype": (lambda x: x.to(torch.complex64).real, r"at head.*not supported"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_name_operator_and_place_in_one_line(name: str) -> None:
    function, message = REFUSALS[name]
    with pytest.raises(UnsupportedError, match=message) as refused:
        stages(Refused(function).eval(), 16)
    assert "\n" not in str(refused.value)
