"""Compiled models against Transformers in float32, fused and not, one thread and two."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.errors import UnsupportedError
from canao.graph.from_torch.trace import trace
from canao.inference.compiled_model import CompiledModel
from canao.target import get_target
from tests.compiler.models import MOBILE, SHAPES, classifier, encoder, mobile, reference, spans
from tests.conftest import LENGTHS, thoroughly
from tests.oracle import FLOAT32, assert_close

LONG = (300, 512)
HOST = get_target()
HOST_ISAS = {
    "scalar": ("scalar",),
    "avx2": ("scalar", "avx2"),
    "avx512": ("scalar", "avx2", "avx512"),
    "neon": ("scalar", "neon"),
}[HOST.isa]


def compare(model, compiled: CompiledModel, lengths, sentences) -> None:
    names = [o["name"] for o in compiled.artifact.manifest["outputs"]]
    types = model.config.type_vocab_size
    for length in lengths:
        ids, kinds = sentences(length, model.config.vocab_size, types)
        expected = reference(model, ids, kinds)
        got = compiled.run(ids[None], kinds[None])
        assert len(expected) == len(names)
        for name, want in zip(names, expected, strict=True):
            assert_close(got[name], want, f"{name} at length {length}")


def fused_and_not(shapes: Iterable[str], unfused: Iterable[str]) -> list[Any]:
    """Each shape fused, and those of `unfused` without: an operator by itself has few shapes."""
    every = [(shape, fusion) for shape in shapes for fusion in (True, False)]
    return thoroughly([(s, fusion) for s, fusion in every if fusion or s in unfused], every)


@pytest.mark.parametrize(
    ("shape", "fusion"), fused_and_not(SHAPES, ("odd", "wide_head", "deep_product"))
)
def test_random_models(shape: str, fusion: bool, tmp_path: Path, sentences) -> None:
    model = classifier(shape)
    artifact = compile_model(model, tmp_path / "out", fusion=fusion)
    for threads in (1, 2) if fusion else (2,):
        with CompiledModel(artifact, threads) as compiled:
            compare(model, compiled, LENGTHS + LONG, sentences)


@pytest.mark.parametrize("isa", HOST_ISAS)
@pytest.mark.parametrize("shape", ("odd", "deep_product"))
def test_every_isa_of_this_machine(shape: str, isa: str, tmp_path: Path, sentences) -> None:
    model = classifier(shape)
    for fusion in (True, False):
        artifact = compile_model(model, tmp_path / "out", target=HOST.with_isa(isa), fusion=fusion)
        with CompiledModel(artifact, 2) as compiled:
            compare(model, compiled, LENGTHS, sentences)


@pytest.mark.parametrize("fusion", (True, False), ids=("fused", "unfused"))
def test_hidden_states(fusion: bool, tmp_path: Path, sentences) -> None:
    """A bare encoder gives its last hidden state and its pooled output."""
    model = encoder("odd")
    artifact = compile_model(model, tmp_path / "out", fusion=fusion)
    with CompiledModel(artifact, 2) as compiled:
        compare(model, compiled, LENGTHS + LONG, sentences)


@pytest.mark.parametrize(
    ("shape", "fusion"),
    fused_and_not(MOBILE, ("odd", "attention_in_bottleneck", "no_bottleneck")),
)
def test_mobilebert(shape: str, fusion: bool, tmp_path: Path, sentences) -> None:
    model = mobile(shape)
    artifact = compile_model(model, tmp_path / "out", fusion=fusion)
    for threads in (1, 2) if fusion else (2,):
        with CompiledModel(artifact, threads) as compiled:
            compare(model, compiled, (2, *LENGTHS, *LONG), sentences)


def test_attention_moves_what_mobilebert_gives(sentences) -> None:
    """Else an attention that computed nonsense would pass the comparison above."""
    for shape in MOBILE:
        model = mobile(shape)
        before = reference(model, *sentences(33, 99))[0]
        with torch.no_grad():
            model.encoder.layer[0].attention.self.query.weight.zero_()
        assert np.abs(reference(model, *sentences(33, 99))[0] - before).max() > 100 * FLOAT32


def test_mobilebert_ends_in_thirteen_kernels_a_layer(tmp_path: Path) -> None:
    """One for the trigrams and one for their product; then the bottlenecks with the values, query
    and key, attention, its output, two for each of four networks, and the way out."""
    artifact = compile_model(mobile("standard", layers=3), tmp_path / "out")
    assert artifact.kernels == 2 + 3 * 13 + 1  # the pooler


@pytest.mark.parametrize("fusion", (True, False), ids=("fused", "unfused"))
def test_a_head_that_splits_its_scores(fusion: bool, tmp_path: Path, sentences) -> None:
    model = spans("odd")
    artifact = compile_model(model, tmp_path / "out", fusion=fusion)
    with CompiledModel(artifact, 2) as compiled:
        compare(model, compiled, LENGTHS, sentences)


class Long(torch.nn.Module):
    """Computes otherwise on long texts, so that one graph cannot stand for all lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(9, 4)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.table(input_ids)
        return x * 2 if x.shape[1] > 5 else x


def test_what_export_refuses_is_named_in_one_line(capfd) -> None:
    with pytest.raises(UnsupportedError, match=r"Long: .*generated guard 6 <= .*") as refused:
        trace(Long().eval(), 16)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("attention", ("eager", "sdpa"))
def test_both_attention_implementations(attention: str, tmp_path: Path, sentences) -> None:
    model = classifier("small")
    model.set_attn_implementation(attention)
    artifact = compile_model(model, tmp_path / "out")
    assert artifact.kernels == 1 + 2 * 5 + 2
    with CompiledModel(artifact) as compiled:
        compare(model, compiled, (1, 33, 128), sentences)


@pytest.mark.as_shipped
def test_minilm_with_a_classification_head(minilm: Path, tmp_path: Path, sentences) -> None:
    from canao.model.hf import load_classifier

    model = load_classifier(minilm, ("no", "yes", "maybe")).eval()
    for fusion in (True, False):
        artifact = compile_model(model, tmp_path / "out", fusion=fusion)
        for threads in (1, 2):
            with CompiledModel(artifact, threads) as compiled:
                compare(model, compiled, (1, 7, 17, 33, 128, 300, 512), sentences)


@pytest.mark.as_shipped
def test_minilm_hidden_states(minilm: Path, tmp_path: Path, sentences) -> None:
    from canao.model.directory.loaded_model import load_directory

    module = load_directory(minilm).module
    with CompiledModel(compile_model(module, tmp_path / "out"), 2) as compiled:
        compare(module, compiled, (1, 8, 31, 64, 127, 512), sentences)


def test_twelve_layers_end_in_five_kernels_each() -> None:
    graph = load_model(classifier("small", layers=12))[1]
    fused, plain = (compile_graph(graph, HOST, fusion=fusion) for fusion in (True, False))
    assert fused.kernels <= 5 * 12 + 3  # embeddings, pooler, classifier
    assert plain.kernels == plain.operators
    assert plain.operators == fused.operators > 250


def test_repeated_runs_are_bit_identical(tmp_path: Path, sentences) -> None:
    """At any number of threads: each row is computed by one thread, in one order."""
    artifact = compile_model(classifier("odd"), tmp_path / "out")
    ids, types = sentences(65, 99, 2)
    results = []
    for threads in (1, 2, 3):
        with CompiledModel(artifact, threads) as compiled:
            results += [compiled(ids, types) for _ in range(3)]
    assert all((r == results[0]).all() for r in results)


def test_plans_of_the_space_compute_the_same(tmp_path: Path, sentences) -> None:
    """Any legal register tile and cache block, at sizes off both, gives the model's numbers."""
    from canao.fuse.forms.form import Attention, PackedGemm
    from canao.fuse.group import fuse
    from canao.fuse.rewrite import apply
    from canao.fuse.rules.algebra import ALGEBRA
    from canao.fuse.yellow_cells import policy
    from canao.lower.cpu.backend import CPU
    from canao.lower.scheduling import schedule_program, space
    from canao.schedule.plan import axes
    from tests.compiler import programs

    model = classifier("deep_product", layers=1, max_length=200)
    program = fuse(apply(load_model(model)[1], ALGEBRA)[0], CPU.legal, policy(CPU.name))
    texts = [sentences(n, 99, 2) for n in (1, 17, 33, 64, 200)]
    want = [reference(model, *t)[0].ravel() for t in texts]
    for step in (7, 11, 13):
        plans = []
        for i, region in enumerate(program.regions):
            choices = list(space(region, HOST))
            tiled = isinstance(region.form, (PackedGemm, Attention))
            assert len(choices) > 1 or not tiled, f"no plans for {type(region.form).__name__}"
            plans.append(choices[step * (step + i) ** 2 % len(choices)])
        assert len({p.tile for p in plans if "mr" in axes(p)}) > 2
        schedule = schedule_program(program, plans, HOST)
        command = programs.build_schedule(schedule, HOST, tmp_path)
        for got, expected in zip(programs.run([*command, "2"], texts), want, strict=True):
            assert_close(got, expected)
