"""Kernels that store rows of float32 and narrow rows beside them: the numbers of two kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from canao.build import Toolchain, get_toolchain
from canao.cli.stage_text import format_stage
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.fuse.forms.form import Form, PackedGemm
from canao.fuse.forms.rows import BESIDE_SLOT, OUTPUT_SLOT, Rows, Slot, row_program
from canao.fuse.group import Program, Region, fuse
from canao.graph.dtypes import BF16, F16, I32, NARROW, Q7, Q8, QUANTIZED, DType
from canao.graph.interp import interpret
from canao.graph.ir import TOKENS, Graph, Ids, Input, Node, Type, node
from canao.graph.meanings import narrowed
from canao.graph.verify import retype, verify
from canao.lower.cpu.backend import CPU
from canao.lower.scheduling import default_plans, schedule_program
from canao.schedule.database import region_text
from canao.target import Target
from tests.compiler import programs
from tests.compiler.emulated import EMULATION, emulated
from tests.compiler.models import bare_decoder, classifier
from tests.compiler.test_families import QUICK
from tests.compiler.test_int8 import ARM, HOST, runnable
from tests.compiler.test_programs import RACES, SANITIZERS, gcc
from tests.conftest import LENGTHS, thoroughly

pytestmark = pytest.mark.as_shipped

# Widths that no vector and no step divides.
WIDTHS = (5, 33)
# The widest instruction sets of this machine.
WIDE = [isa for isa in ("avx2", "avx512", "avx512vnni", "avx512amx") if isa in runnable()][-2:]


class Layers:
    """Nodes over rows of one width: a table's rows, then layers in which products read narrow rows
    of what a residual connection reads in float32."""

    def __init__(self, width: int, dtype: DType, tag: str = "") -> None:
        self.width, self.dtype, self.tag = width, dtype, tag
        self.rng = np.random.default_rng(width)
        self.constants: dict[str, np.ndarray] = {}
        self.nodes: list[Node] = []

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"{self.tag}{op}{len(self.nodes)}"
        self.nodes.append(node(op, inputs, name, **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        name = f"{self.tag}c{len(self.constants)}"
        self.constants[name] = value
        return name

    def rows(self) -> str:
        table = self.rng.standard_normal((40, self.width)).astype(np.float32)
        table[7] = 0
        return self.add("gather", self.constant(table), "ids")

    def eighths(self) -> str:
        """Rows that are levels times 1/8."""
        most = self.dtype.levels
        table = self.rng.integers(-most, most + 1, (40, self.width)).astype(np.float32)
        table[:, 0] = most * (-1) ** np.arange(40)  # the largest magnitude of each row
        return self.add("gather", self.constant(table / 8), "ids")

    def product(self, x: str, weights: np.ndarray | None = None, scale: float = 2.0**-8) -> str:
        """Of the narrow rows of x, by random weights."""
        op = "quantize" if self.dtype in QUANTIZED else "narrow"
        rows = self.add(op, x, dtype=self.dtype)
        if weights is None:
            weights = self.rng.integers(-127, 128, (self.width, self.width))
        if self.dtype not in QUANTIZED:
            w = narrowed((weights * scale).astype(np.float32), self.dtype)
            return self.add("linear", rows, self.constant(w))
        scales = np.full(self.width, scale, np.float32)
        w = self.constant(weights.astype(np.int8))
        return self.add("quantized_linear", rows, w, self.constant(scales))

    def norm(self, x: str) -> str:
        gamma, beta = self.rng.standard_normal((2, self.width)).astype(np.float32)
        return self.add("layer_norm", x, self.constant(gamma), self.constant(beta), eps=1e-5)


def levels(layers: Layers) -> str:
    """Levels times their scale, of rows that are exact sums: first and last weights are the
    identity."""
    x, identity = layers.eighths(), np.eye(layers.width)
    first = layers.product(x, identity, 1.0)
    x = layers.add("add", layers.add("add", layers.product(x), x), first)
    return layers.product(x, identity, 1.0)


def bare(layers: Layers) -> str:
    """Without norms."""
    x = layers.rows()
    x = layers.add("add", layers.product(x), x)
    return layers.add("add", layers.product(x), x)


def norms_after(layers: Layers) -> str:
    """As in BERT."""
    x = layers.norm(layers.rows())
    for _ in range(2):
        x = layers.norm(layers.add("add", layers.product(x), x))
    return x


def norms_before(layers: Layers) -> str:
    """As in GPT-2: what products read is the norm of what the residual connection reads."""
    x = layers.rows()
    for _ in range(2):
        x = layers.add("add", layers.product(layers.norm(x)), x)
    return layers.norm(x)


def read_again(layers: Layers) -> str:
    """Products read what is made of a norm and of what the norm was of."""
    x = layers.rows()
    for _ in range(2):
        both = layers.add("mul", layers.add("tanh", x), layers.add("softmax", x))
        x = layers.norm(layers.add("add", layers.product(both), layers.add("add", both, x)))
        gate = layers.add("sub", layers.add("softmax", x), layers.norm(x))
        x = layers.add("add", layers.product(layers.add("mul", gate, x)), x)
    return x


KINDS = {kind.__name__: kind for kind in (levels, bare, norms_after, norms_before, read_again)}


def graph(kinds: tuple[str, ...], dtypes: tuple[DType, ...], widths: tuple[int, ...]) -> Graph:
    """All kinds of layers, in all widths."""
    several = [Layers(width, dtype, f"{kind} {dtype} {width} ")
               for kind in kinds for dtype in dtypes for width in widths]  # fmt: skip
    made = {x.tag: KINDS[x.tag.split()[0]](x) for x in several}
    constants = {name: c for x in several for name, c in x.constants.items()}
    nodes = tuple(n for x in several for n in x.nodes)
    slot = Input("ids", Type(I32, (1, TOKENS)), Ids(40))
    return verify(retype(Graph((slot,), constants, nodes, tuple(made.items()), {}, 128)))


def texts() -> list[tuple[np.ndarray]]:
    return [(np.arange(length) * 3 % 40,) for length in LENGTHS]


def apart(g: Graph, form: Form) -> bool:
    """Kernels of one result."""
    rows = form.epilogue if isinstance(form, PackedGemm) else form
    return CPU.legal(g, form) and not (isinstance(rows, Rows) and rows.beside)


def build(
    program: Program, target: Target, folder: Path, *flags: str, toolchain: Toolchain | None = None
) -> list[str]:
    folder.mkdir()
    schedule = schedule_program(program, default_plans(program, target), target)
    return programs.build_schedule(schedule, target, folder, toolchain, (*QUICK, *flags))


def both_ways(g: Graph) -> tuple[Program, Program]:
    """A graph's regions with two results, and with one each."""
    together, alone = (fuse(g, legal, lambda *_: True) for legal in (CPU.legal, apart))
    assert any(r.beside for r in together.regions) and not any(r.beside for r in alone.regions)
    assert len(together.regions) < len(alone.regions)
    return together, alone


def expect_alike(
    target: Target, folder: Path, g: Graph, command: tuple[str, ...] = (), *flags: str
) -> None:
    """The same bits, on one thread and on several."""
    built = [build(program, target, folder / str(i), *flags)
             for i, program in enumerate(both_ways(g))]  # fmt: skip
    given = texts()
    want = programs.run([*command, *built[1], "1"], given)
    for threads in ("1", "3"):
        for one, other in zip(programs.run([*command, *built[0], threads], given), want,
                              strict=True):  # fmt: skip
            assert np.isfinite(one).all() and np.array_equal(one, other)


@pytest.mark.parametrize("isa", runnable())
def test_levels_are_the_interpreters(isa: str, tmp_path: Path) -> None:
    """To the bit, in both results."""
    g = graph(("levels",), (Q8, Q7), WIDTHS)
    sums = [n.inputs[0] for n in g.nodes if n.op == "quantize" and "gather" not in n.inputs[0]]
    g = g.replace(outputs=(*g.outputs, *((name, name) for name in sums)))
    built = build(both_ways(g)[0], HOST.with_isa(isa), tmp_path / "built")
    for (ids,), got in zip(texts(), programs.run([*built, "2"], texts()), strict=True):
        values = interpret(g, [ids], np.float32)
        want = [values[value].astype(np.float32).ravel() for _, value in g.outputs]
        assert np.array_equal(got, np.concatenate(want))


@pytest.mark.parametrize("isa", thoroughly(WIDE, runnable()))
@pytest.mark.parametrize("dtypes", [(Q8,), (BF16, F16)], ids=str)
def test_numbers_are_those_of_two_kernels(
    isa: str, dtypes: tuple[DType, ...], tmp_path: Path
) -> None:
    expect_alike(HOST.with_isa(isa), tmp_path, graph(tuple(KINDS)[1:], dtypes, (33,)))


@pytest.mark.cross
@pytest.mark.parametrize("isa", ["neon_dotprod", "neon_i8mm"])
def test_numbers_are_those_of_two_kernels_under_qemu(isa: str, qemu: str, tmp_path: Path) -> None:
    g = graph(("norms_after", "read_again"), (Q8, F16), (33,))
    expect_alike(ARM.with_isa(isa), tmp_path, g, (qemu, "-cpu", "max"), "-static")


@pytest.mark.skipif(HOST.isa not in ("avx2", "avx512"), reason="needs AVX2")
@pytest.mark.parametrize("isa", ["avx512vnni", "avx512amx"])
def test_numbers_where_instructions_are_emulated(isa: str, tmp_path: Path) -> None:
    g = graph(("norms_after", "norms_before"), (Q8,), (33,))
    expect_alike(emulated(isa), tmp_path, g, (), *EMULATION)


@pytest.mark.parametrize("flags", [SANITIZERS, RACES], ids=["address", "thread"])
def test_under_sanitizers(flags: tuple[str, ...], tmp_path: Path) -> None:
    """Rows whose ends no vector and no step divides, on several threads."""
    g = graph(tuple(KINDS)[1:], (Q8, F16), (33,))
    built = build(both_ways(g)[0], HOST, tmp_path / "built", *flags,
                  toolchain=get_toolchain(gcc()))  # fmt: skip
    one, three = (programs.run([*built, threads], texts()) for threads in ("1", "3"))
    assert all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))


def regions(kind: str, dtype: DType = Q8) -> list[Region]:
    return list(both_ways(graph((kind,), (dtype,), (33,)))[0].regions)


def test_which_regions_have_two_results() -> None:
    """All that make what is rounded and read in float32 as well."""
    assert [(r.ops, bool(r.beside)) for r in regions("norms_after")] == [
        (("gather", "layer_norm", "quantize"), True),
        (("quantized_linear", "add", "layer_norm", "quantize"), True),
        (("quantized_linear", "add", "layer_norm"), False),
    ]
    assert [(r.ops, bool(r.beside)) for r in regions("norms_before")] == [
        (("gather", "layer_norm", "quantize"), True),
        (("quantized_linear", "add", "layer_norm", "quantize"), True),
        (("quantized_linear", "add", "layer_norm"), False),
    ]


@pytest.mark.parametrize("kind", tuple(KINDS)[1:])
@pytest.mark.parametrize("dtype", [Q8, F16], ids=str)
def test_no_stage_writes_over_a_row_that_is_read_later(kind: str, dtype: DType) -> None:
    """What is stored in a row's place is the last that is, once the output is there."""
    g = graph((kind,), (dtype,), (33,))
    for region in both_ways(g)[0].regions:
        rows = region.form.epilogue if isinstance(region.form, PackedGemm) else region.form
        if not region.beside:
            continue
        program = row_program(g, rows)
        assert program.beside == dtype and not program.narrow
        stored = [(i, x.name, slot) for i, stage in enumerate(program.stages)
                  for x, slot in stage.stores]  # fmt: skip
        assert stored[-1][1:] == (rows.beside, BESIDE_SLOT)
        assert [name for _, name, slot in stored if slot == OUTPUT_SLOT][-1] == rows.output
        assert all(slot < program.slots for _, _, slot in stored)
        holds: dict[int, str] = {}
        reads = {x.index for stage in program.stages for step in stage.steps
                 for x in step.operands if isinstance(x, Slot)}  # fmt: skip
        assert BESIDE_SLOT not in reads
        for _, name, slot in stored:
            assert slot == OUTPUT_SLOT or slot not in holds
            holds[slot] = name


def test_what_is_beside_waits_for_no_other_region() -> None:
    """Regions run in the order of their outputs, each after all that it reads."""
    layers = Layers(33, Q8, "x ")
    x = layers.rows()
    used = layers.add("exp", layers.product(layers.add("exp", x)))
    y = layers.product(layers.add("mul", x, used))
    total = layers.add("add", layers.add("add", y, x), used)
    slot = Input("ids", Type(I32, (1, TOKENS)), Ids(40))
    g = verify(retype(Graph((slot,), layers.constants, tuple(layers.nodes),
                            (("out", total),), {}, 128)))  # fmt: skip
    order, found = dict[str, int](), fuse(g, CPU.legal, lambda *_: True).regions
    for i, region in enumerate(found):
        inside = {n.output for n in region.nodes}
        for n in region.nodes:
            assert all(v in order for v in n.inputs
                       if v not in inside and v not in g.constants and v != "ids")  # fmt: skip
        order.update(dict.fromkeys(region.outputs, i))


def test_bert_has_one_quantisation_of_its_own_in_a_layer() -> None:
    """That of attention's result, of which no thread has whole rows."""
    graph_ = load_model(classifier("small", layers=2))[1]
    program = compile_graph(graph_, HOST, precision="int8", planner=default_plans).program
    own = [r for r in program.regions if r.ops == ("quantize",)]
    made = {r.output: r.ops for r in program.regions}
    assert len(own) == 2
    assert all("softmax" in made[r.nodes[0].inputs[0]] for r in own)
    assert sum("quantize" in r.ops for r in program.regions) == 4 * 2
    # The last layer's rows go on to no product in int8.
    assert sum(bool(r.beside) for r in program.regions) == 2 * 2


def test_products_of_decoders_make_none() -> None:
    """Their threads share out the columns of a token."""
    graph_ = load_model(bare_decoder())[1]
    program = compile_graph(graph_, HOST, precision="int8", planner=default_plans).program
    assert not any(r.beside for r in program.regions if isinstance(r.form, PackedGemm))


def test_float32_has_none() -> None:
    for model in (classifier("small", layers=1), bare_decoder()):
        program = compile_graph(load_model(model)[1], HOST, planner=default_plans).program
        assert not any(r.beside for r in program.regions)
        assert not any(t.dtype in NARROW for t in program.graph.types.values())


def test_both_results_are_told(tmp_path: Path) -> None:
    """By texts of stages, keys of measured plans, and the manifest."""
    model = classifier("small", layers=1)
    stages = compile_graph(load_model(model)[1], HOST, precision="int8", planner=default_plans)
    memory = stages.schedule.memory
    two = next(r for r in stages.program.regions if r.beside)
    assert f"}} -> {two.output}, {two.beside}\n" in format_stage("fused", stages)
    places = (f"{name} at {memory.place(name)}" for name in two.outputs)
    assert f"-> {', '.join(places)}, " in format_stage("plan", stages)
    end = region_text(stages.program.graph, two).rpartition("-> ")[2]
    assert end.count(":") == 2 and end.endswith(str(stages.program.graph.types[two.beside]))
    made = compile_model(model, tmp_path / "out", precision="int8", build_flags=QUICK)
    told = {k["output"]: k.get("beside", "") for k in made.manifest["kernels"]}
    assert told == {r.output: r.beside for r in stages.program.regions}
