"""Whole models in every precision: all families and heads, long texts, instruction sets that only
an emulator runs. The library gives what the interpreter gives of the same graph."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.compiler.stages import Stages
from canao.fuse.forms.form import PackedGemm
from canao.graph.interp import interpret
from canao.graph.ir import Graph
from canao.inference.compiled_model import CompiledModel
from canao.isa.registry import ISAS, isas_of
from canao.lower.scheduling import default_plans
from canao.precision.quantize import FLOAT32, INT8, PRECISIONS, SEVEN_BITS, precision_of
from canao.target import Target
from tests.compiler import programs
from tests.compiler.families import FAMILIES, HEADS, make, reference, text
from tests.compiler.models import DECODERS, decoder, encoder
from tests.compiler.test_families import QUICK
from tests.compiler.test_int8 import ARM, HOST, LONGEST, runnable
from tests.conftest import thoroughly
from tests.oracle import (
    COSTS,
    FEWER_BITS,
    HALF_SUMS,
    MET,
    OF_VOCABULARY,
    OTHER_WAY,
    assert_close,
)

pytestmark = pytest.mark.as_shipped

REDUCED = [p for p in PRECISIONS if p != FLOAT32]
Outputs = Mapping[str, np.ndarray]
# Of the least size at which a vocabulary is no small head, and its table is one that is rounded.
VOCABULARY = 4099
# A vocabulary or spans in every precision, which other tests have no models with; classifiers and
# taggers they have. Families that differ in what precisions do to them.
CELLS = list(product(FAMILIES, HEADS, REDUCED))
CHOSEN = [
    ("Albert", "ForMaskedLM", INT8), ("DebertaV2", "ForQuestionAnswering", INT8),
    ("Bert", "ForMaskedLM", SEVEN_BITS), ("MobileBert", "ForMaskedLM", "bf16"),
    ("MPNet", "ForQuestionAnswering", "fp16"), ("Electra", "ForMaskedLM", "int8-weights"),
]  # fmt: skip


def staged(model: torch.nn.Module, target: Target, precision: str) -> Stages:
    graph = load_model(model)[1]
    return compile_graph(
        graph, target, planner=default_plans, precision=precision, allow_emulation=True
    )


def products_of(graph: Graph, precision: str) -> int:
    """The products whose weights are in a precision, and whose rows are."""
    of = precision_of(precision)
    return sum(
        n.op in ("linear", "quantized_linear")
        and [graph.types[i].dtype for i in n.inputs[:2]] == [of.rows, of.weights]
        for n in graph.nodes
    )  # fmt: skip


def made_by(graph: Graph, value: str) -> str:
    """The product that a value comes of, by the type of its weights."""
    makers = graph.producers()
    while makers[value].op not in ("linear", "quantized_linear"):
        value = makers[value].inputs[0]
    return str(graph.types[makers[value].inputs[1]].dtype)


@pytest.mark.parametrize(("family", "head", "precision"), thoroughly(CHOSEN, CELLS))
def test_families_and_heads(family: str, head: str, precision: str, tmp_path: Path) -> None:
    """As the interpreter computes it, and near what Transformers gives. A vocabulary is multiplied
    in the precision, as all layers are; other heads stay in float32."""
    model = make(family, head, vocab_size=VOCABULARY)
    graph = staged(model, HOST, precision).program.graph
    assert products_of(graph, precision) >= 4
    if head != "Model":
        narrow = made_by(graph, graph.outputs[0][1]) == str(precision_of(precision).weights)
        assert narrow == (head == "ForMaskedLM")
    artifact = compile_model(model, tmp_path / "out", precision=precision, allow_emulation=True,
                             build_flags=QUICK)  # fmt: skip
    names = tuple(i["name"] for i in artifact.manifest["inputs"])
    near, cost = [], []  # of each text the largest difference, and what the precision costs
    with CompiledModel(artifact, 2) as compiled:
        for length in (1, 2, 7, 17, 33, 64):
            ids = text(model, names, length)
            values, plain = interpret(graph, ids, np.float32), reference(model, names, ids)
            got = compiled.run(*(i[None] for i in ids))
            want = {name: values[value] for name, value in graph.outputs}
            near.append(_farthest(got, want, plain))
            cost.append(_farthest(want, plain, plain))
    assert 0 < max(cost) <= COSTS[precision]
    assert max(near) <= OTHER_WAY * max(cost), near
    assert min(near) <= MET[precision], near


def _farthest(got: Outputs, want: Outputs, plain: Outputs) -> float:
    """The largest difference of all outputs, in what each spreads in float32, or in 1."""
    assert got.keys() == want.keys() == plain.keys()
    differences = []
    for name, array in plain.items():
        assert got[name].shape == want[name].shape == array.shape
        most = np.abs(got[name].astype(np.float64) - want[name]).max()
        differences.append(most / max(1.0, float(array.std())))
    assert np.isfinite(differences).all()
    return float(max(differences))


# Of decoders: shapes of GPT-2 with every precision.
DECODED = [(shape, precision) for shape in DECODERS for precision in REDUCED]
DECODED_HERE = [("odd", INT8)]


@pytest.mark.parametrize(("shape", "precision"), thoroughly(DECODED_HERE, DECODED))
def test_decoders(shape: str, precision: str, tmp_path: Path) -> None:
    """With a vocabulary that is multiplied in the precision, at once and in pieces."""
    model = decoder(shape, vocabulary=VOCABULARY)
    graph = staged(model, HOST, precision).program.graph
    (result,) = (value for _, value in graph.outputs)
    assert made_by(graph, result) == str(precision_of(precision).weights)
    ids = np.random.default_rng(3).integers(0, VOCABULARY, 70)
    want = interpret(graph, [ids], np.float32)[result][0]
    near = {"tolerance": OF_VOCABULARY[precision], "scale": max(1.0, float(want.std()))}
    artifact = compile_model(model, tmp_path / "out", precision=precision, allow_emulation=True,
                             build_flags=QUICK)  # fmt: skip
    with CompiledModel(artifact, 2) as compiled:
        assert_close(compiled(ids), want, "at once", **near)
        compiled.reset()
        pieces = np.split(ids, [5, 6, 13, 64])
        rows = [compiled.extend(p, wanted=len(p))["logits"] for p in pieces]
        assert_close(np.concatenate(rows), want, "in pieces", **near)


@pytest.mark.parametrize("precision", thoroughly([INT8, "bf16"], REDUCED))
def test_long_texts(precision: str, tmp_path: Path) -> None:
    """Up to the last of 512 positions, where keys fill a tile of scores to its end."""
    model = encoder("prime", layers=1, max_length=LONGEST)
    stages = staged(model, HOST, precision)
    target = stages.levels[-1].target
    command = programs.build(stages, target, tmp_path, None, QUICK)
    given = [_bert_text(length) for length in (1, LONGEST - 1, LONGEST)]
    programs.expect_near(command, stages.program.graph, given, FEWER_BITS[precision],
                         exact=MET[precision])  # fmt: skip


# An instruction set for each way that whole numbers are multiplied, or lie in memory.
WAYS = {ISAS[isa].tiles["i8"]: isa for isa in reversed(runnable())}
ON_ISAS = list(product(runnable(), (INT8, "bf16", "fp16")))


@pytest.mark.parametrize(
    ("isa", "precision"), thoroughly([(isa, INT8) for isa in WAYS.values()], ON_ISAS)
)
def test_every_isa_of_this_machine(isa: str, precision: str, tmp_path: Path) -> None:
    """All rows that a product rounds for the next, on each set of instructions."""
    target = HOST.with_isa(isa)
    stages = staged(encoder("odd", layers=1), target, precision)
    command = programs.build(stages, target, tmp_path, None, QUICK)
    given = [_bert_text(length) for length in (1, 7, 17, 33, 65)]
    programs.expect_near(command, stages.program.graph, given, FEWER_BITS[precision],
                         exact=MET[precision])  # fmt: skip


ARM_ISAS = [isa for isa in isas_of(ARM.triple) if isa.name != "scalar"]
ON_ARM = [(isa.name, precision) for isa in ARM_ISAS for precision in (INT8, "fp16", "bf16")
          if precision not in isa.emulated]  # fmt: skip
# Halves are multiplied alike by the two that do, and as float32 by the third.
ON_ARM_HERE = [(isa, p) for isa, p in ON_ARM if p != "fp16" or isa == "neon_dotprod"]


@pytest.mark.cross
@pytest.mark.parametrize(("isa", "precision"), thoroughly(ON_ARM_HERE, ON_ARM))
def test_on_arm_under_qemu(isa: str, precision: str, qemu: str, tmp_path: Path) -> None:
    """Products whose epilogue rounds the rows of the next, where these fill no register tile."""
    target = ARM.with_isa(isa)
    program = staged(encoder("odd", layers=1), target, precision).program
    fused = [r for r in program.regions if isinstance(r.form, PackedGemm)
             and any(n.op in ("quantize", "narrow") for n in r.form.epilogue.body)]  # fmt: skip
    assert fused
    schedule = programs.few_rows(program, target)
    built = programs.build_schedule(schedule, target, tmp_path, None, (*QUICK, "-static"))
    halves = precision == "fp16" and target.isa != "neon"
    given = [_bert_text(length) for length in (1, 2, 7, 17, 33)]
    programs.expect_near([qemu, "-cpu", "max", *built], program.graph, given,
                         HALF_SUMS if halves else FEWER_BITS[precision],
                         exact=None if halves else MET[precision])  # fmt: skip


def _bert_text(length: int) -> list[np.ndarray]:
    """Ids and type ids of one of the models of models.py."""
    rng = np.random.default_rng(length)
    return [rng.integers(0, 99, length), np.sort(rng.integers(0, 2, length))]
