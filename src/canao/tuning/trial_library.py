"""Trial libraries: one region of a model, many plans, each timed as a step of its own.

A trial library is built like the library of a model. For each plan it holds the region once or
several times. Each copy reads activations that a gather has just written, or a quantisation of what
that gathered, as the kernel before it would in the model, and has constants of its own, so that
caches hold no more of them than in the model.

Libraries give out float32. Of narrow rows that a region makes, a product is given out: few columns,
each the sum of some of the row's elements, all of which are in one of the sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from canao.artifact.directory import Artifact
from canao.build import Toolchain, build_library
from canao.device.base import Device, MeasureConfig
from canao.emit.c.interface import interface
from canao.emit.emit import emit
from canao.errors import DeviceError
from canao.fuse.forms.form import form_of
from canao.fuse.group import Program, Region
from canao.graph.dtypes import BF16, F16, F32, I32, NARROW, QUANTIZED, DType
from canao.graph.interp import interpret
from canao.graph.ir import TOKENS, Graph, Ids, Input, Node, Type, constant_type, node
from canao.graph.meanings import narrowed, widened
from canao.graph.verify import infer
from canao.lower.scheduling import default_plan, schedule_program
from canao.schedule.plan import Plan
from canao.schedule.plan_choice import row_width
from canao.schedule.weights import file_parts
from canao.target import Target

IDS = "input_ids"
ROWS = 256  # of the tables that activations are gathered from
# A plan's numbers may differ from float64 by this part of the largest of them.
TOLERANCE = 1e-4
# What an element of narrow rows may move by, as a part of the largest: by rounding to the next one.
_STEPS = {F32: 0.0, BF16: 2.0**-7, F16: 2.0**-10} | {d: 1 / d.levels for d in QUANTIZED}
_MOVED = 2  # elements of one sum that may
_SUMS = 64  # that a narrow row is checked by
_CHECKED_LENGTHS = (1, 37)  # besides the measured one
_Expected = tuple[np.ndarray, float]  # a result, and how far another may be from it


@dataclass(frozen=True, slots=True)
class Subject:
    """A region to be tuned, which occurs `calls` times in its model. Equal texts are equal."""

    text: str
    graph: Graph = field(compare=False, repr=False)
    region: Region = field(compare=False, repr=False)
    calls: int = field(compare=False, default=1)

    @property
    def constant_bytes(self) -> int:
        names = {i for n in self.region.nodes for i in n.inputs} & set(self.graph.constants)
        return sum(self.graph.constants[name].nbytes for name in names)


Pair = tuple[Subject, Plan]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a library gives out, by its `name`: `value`, which tells of a region's `result`."""

    name: str
    value: str
    result: str


@dataclass(frozen=True, slots=True)
class TrialLibrary:
    """A built library in which every pair is a step or several, that can be timed."""

    pairs: tuple[Pair, ...]
    artifact: Artifact
    program: Program
    nodes: Mapping[Pair, tuple[Node, ...]]  # of the first copy, what makes its activations included
    outputs: Mapping[Pair, tuple[Shown, ...]]  # of the first copy
    steps: Mapping[Pair, tuple[tuple[int, ...], ...]]  # of each copy; causal attention has two

    def times(self, device: Device, config: MeasureConfig) -> dict[Pair, float]:
        """Milliseconds of each pair: the least of the samples, as what disturbs a sample only
        adds to it; the median of its copies."""
        rows = device.profile(self.artifact, config, min)
        return {
            pair: median(sum(rows[i][1] for i in copy) for copy in self.steps[pair])
            for pair in self.pairs
        }

    def wrong(self, device: Device, length: int) -> tuple[Pair, ...]:
        """The pairs whose results on a device differ from those of the interpreter. DeviceError if
        the library does not get through there."""
        most, names = self.program.graph.max_length, [o["name"] for o in
                                                      self.artifact.manifest["outputs"]]
        sequences = [
            np.random.default_rng(s).integers(0, ROWS, s).astype(np.int32)
            for s in sorted({min(n, most) for n in (length, *_CHECKED_LENGTHS)})
        ]
        found: list[Pair] = []
        for ids, outputs in zip(
            sequences, device.run_batch(self.artifact, [[ids] for ids in sequences]), strict=True
        ):
            got, expected = dict(zip(names, outputs, strict=True)), dict[Subject, list[_Expected]]()
            for pair in self.pairs:
                if pair[0] not in expected:
                    expected[pair[0]] = self._expected(pair, ids)
                wanted = zip(self.outputs[pair], expected[pair[0]], strict=True)
                if not all(_close(got[shown.name], *of) for shown, of in wanted):
                    found.append(pair)
        return tuple(dict.fromkeys(found))

    def _expected(self, pair: Pair, ids: np.ndarray) -> list[_Expected]:
        """What is given out of a pair, and how far a library's may be from it."""
        graph, nodes = self.program.graph, self.nodes[pair]
        read = {name for n in nodes for name in n.inputs}
        constants = {k: v for k, v in graph.constants.items() if k in read}
        values = interpret(graph.replace(nodes=nodes, constants=constants), [ids])
        # Weights of values that attention rounds, on the other side of half a step, or relative to
        # the largest of some keys and not of all.
        rounded = any("rounded" in dict(n.attributes) for n in nodes)
        found = []
        for shown in self.outputs[pair]:
            expected, dtype = values[shown.value], graph.types[shown.result].dtype
            most = float(np.abs(expected).max(initial=0.0))
            allowed = TOLERANCE * max(1.0, most) + (_STEPS[BF16] * most if rounded else 0.0)
            if dtype in NARROW:
                allowed += _MOVED * _STEPS[dtype] * _largest(values[shown.result], dtype)
            found.append((expected, allowed))
        return found


def _as(ones: np.ndarray, dtype: DType) -> np.ndarray:
    """Ones and zeros as the weights of narrow rows."""
    return ones.astype(np.int8) if dtype in QUANTIZED else narrowed(ones.astype(np.float32), dtype)


def _largest(rows: np.ndarray, dtype: DType) -> float:
    """The largest magnitude of narrow rows."""
    if dtype in QUANTIZED:
        return float(rows["scale"].max(initial=0.0)) * dtype.levels
    return float(np.abs(widened(rows)).max(initial=0.0))


def _close(got: np.ndarray, expected: np.ndarray, allowed: float) -> bool:
    difference = np.abs(got.ravel().astype(np.float64) - expected.ravel())
    return bool((difference <= allowed).all())  # a NaN is not close either


def build_trial_library(
    pairs: Sequence[Pair], target: Target, folder: Path, *, copies: int = 1,
    toolchain: Toolchain | None = None,
) -> TrialLibrary:  # fmt: skip
    """A library in which each pair runs `copies` times. ToolchainError if it cannot be built."""
    made = _Assembly(pairs, target, copies)
    schedule = schedule_program(made.program, made.plans, target)
    source = emit(schedule, target)
    library = build_library([source], toolchain)
    folder.mkdir(parents=True)
    (folder / library.name).symlink_to(library.resolve())
    try:
        with open(folder / "weights.bin", "wb") as stream:
            for part in file_parts(made.program.graph, schedule.weights):
                stream.write(part)
    except OSError as error:
        raise DeviceError(
            f"{folder}: the trial's weights cannot be written ({error.strerror}); free space, or "
            "name another directory in TMPDIR"
        ) from None
    told = interface(made.program.graph)
    manifest = {
        "target": target.entry,
        "library": library.name,
        "kernels": [{"name": step.name} for step in schedule.steps],
        # Outputs of models are of a batch of one.
        **told, "outputs": [o | {"shape": [1, *o["shape"]]} for o in told["outputs"]],
    }  # fmt: skip
    places: dict[str, list[int]] = {r.output: [] for r in made.program.regions}
    for i, step in enumerate(schedule.steps):
        places[step.writes[0].value].append(i)
    steps = {pair: tuple(tuple(places[output]) for output in outputs)
             for pair, outputs in made.places.items()}  # fmt: skip
    return TrialLibrary(
        tuple(pairs), Artifact(folder, manifest), made.program, made.nodes, made.outputs, steps
    )


class _Assembly:
    """The program of a trial: for each copy of each pair a block of nodes with its own names."""

    def __init__(self, pairs: Sequence[Pair], target: Target, copies: int) -> None:
        self.target = target
        self.constants: dict[str, np.ndarray] = {}
        self.types = {IDS: Type(I32, (1, TOKENS))}
        self.all_nodes: list[Node] = []
        self.cut: list[tuple[tuple[Node, ...], tuple[str, str], Plan | None, str]] = []
        self.nodes: dict[Pair, tuple[Node, ...]] = {}
        self.outputs: dict[Pair, tuple[Shown, ...]] = {}
        self.places: dict[Pair, list[str]] = {pair: [] for pair in pairs}
        for copy in range(copies):
            for i, pair in enumerate(pairs):
                self._block(pair, f"p{i}c{copy}", first=copy == 0)
        self._finish(max(s.graph.max_length for s, _ in pairs))

    def _block(self, pair: Pair, tag: str, first: bool) -> None:
        subject, plan = pair
        start, graph, names = len(self.all_nodes), subject.graph, dict[str, str]()
        for n in subject.region.nodes:
            for name in n.inputs:
                if name not in names and name in graph.constants:
                    names[name] = f"{tag}.{name}"
                    self.constants[names[name]] = graph.constants[name]
                    self.types[names[name]] = graph.types[name]
                elif name not in names:
                    names[name] = self._activation(graph, name, f"{tag}.{name}")
            names[n.output] = f"{tag}.{n.output}"
        own = [Node(n.op, tuple(names[i] for i in n.inputs), names[n.output], n.attributes)
               for n in subject.region.nodes]  # fmt: skip
        for n in own:
            self._add(n)
        results = [names[value] for value in subject.region.outputs]
        self.places[pair].append(results[0])
        both = (results[0], results[1] if len(results) > 1 else "")
        self.cut.append((tuple(own), both, plan, subject.region.mapping))
        if first:
            self.outputs[pair] = tuple(
                Shown(f"{tag}.out{i or ''}", self._shown(result), result)
                for i, result in enumerate(results)
            )
            self.nodes[pair] = tuple(self.all_nodes[start:])

    def _activation(self, graph: Graph, name: str, result: str) -> str:
        """Nodes that make a value of the type of `name`, out of rows of a table."""
        width, shape, dtype = row_width(graph, name), graph.shape(name), graph.types[name].dtype
        numbers = np.random.default_rng(width).standard_normal((ROWS, width), np.float32)
        table = self._constant(f"table{width}", numbers)
        chain: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [("gather", (table, IDS), {})]
        have = (1, TOKENS, width)
        if isinstance(graph.types[name].elements, int):
            have = (1, 1, width)
            chain.append(("slice", (), {"axis": 1, "start": 0, "stop": 1}))
        if shape != have:
            chain.append(("reshape", (), {"shape": shape}))
        if dtype in QUANTIZED:
            chain.append(("quantize", (), {"dtype": dtype}))
        elif dtype in NARROW:
            chain.append(("narrow", (), {"dtype": dtype}))
        value = ""
        for i, (op, operands, attributes) in enumerate(chain):
            output = result if i == len(chain) - 1 else f"{result}.{op}"
            value = self._alone(node(op, operands or (value,), output, **attributes))
        return value

    def _shown(self, rows: str) -> str:
        """What is given out of a result: of narrow rows, sums of their elements."""
        dtype = self.types[rows].dtype
        if dtype not in NARROW:
            return rows
        width = self.types[rows].shape[-1]
        assert isinstance(width, int)
        ones = np.arange(width) % _SUMS == np.arange(min(_SUMS, width))[:, None]
        operands = [rows, self._constant(f"sums{width}.{dtype}", _as(ones, dtype))]
        if dtype in QUANTIZED:
            scales = np.ones(len(ones), np.float32)
            operands.append(self._constant(f"sums{width}.scales", scales))
        op = "quantized_linear" if dtype in QUANTIZED else "linear"
        return self._alone(node(op, tuple(operands), f"{rows}.sums"))

    def _constant(self, name: str, value: np.ndarray) -> str:
        """A constant that all blocks share."""
        if name not in self.constants:
            self.constants[name], self.types[name] = value, constant_type(value)
        return name

    def _alone(self, n: Node) -> str:
        """The value of a node that is a region by itself."""
        self._add(n)
        self.cut.append(((n,), (n.output, ""), None, ""))
        return n.output

    def _add(self, n: Node) -> None:
        self.types[n.output] = infer(n, [self.types[i] for i in n.inputs])
        self.all_nodes.append(n)

    def _finish(self, max_length: int) -> None:
        shown = tuple((x.name, x.value) for several in self.outputs.values() for x in several)
        slot = Input(IDS, self.types[IDS], Ids(ROWS))
        graph = Graph(
            (slot,), self.constants, tuple(self.all_nodes), shown, self.types, max_length
        )
        regions, plans = [], []
        for nodes, (output, beside), plan, mapping in self.cut:
            form = form_of(graph, nodes, output, beside)
            assert form is not None, f"{output}: a region of the model that has no form here"
            regions.append(Region(nodes, output, form, mapping, beside))
            plans.append(plan or default_plan(regions[-1], self.target))
        self.program, self.plans = Program(graph, tuple(regions)), tuple(plans)
