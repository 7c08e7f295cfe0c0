"""An ONNX graph -> Graph: walks the nodes and applies the rule of each operator.

The text has a batch of 1 and s tokens. Nothing is padded, so the attention mask is 1 everywhere
and goes away with all that is computed from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from canao.defaults import LIMITS, Limits
from canao.errors import InputError, Problem, UnsupportedError
from canao.graph.bounds import limited
from canao.graph.builder import require_nodes
from canao.graph.dtypes import F32
from canao.graph.from_onnx.attributes import require_arity, understood
from canao.graph.from_onnx.builder import Builder
from canao.graph.from_onnx.elements import ELEMENTS
from canao.graph.from_onnx.inputs import bind_inputs
from canao.graph.from_onnx.load import Model, require_onnx
from canao.graph.from_onnx.quantized import Levels, called, plain
from canao.graph.from_onnx.refused import remedy, stand_ins
from canao.graph.from_onnx.rules import LONGEST, RULES
from canao.graph.from_onnx.values import Known, Undecided, Value, at_lengths, known
from canao.graph.ir import Graph, Ids, Input, Shape, dim_at, product
from canao.graph.ops import OPS
from canao.graph.verify import retype, verify

# The longest text of a model whose tables don't say.
DEFAULT_LENGTH = 512
MOST = 1 << 31  # elements of one value
_FLOATS = tuple(e.onnx for e in ELEMENTS.values() if e.dtype.kind == "float")
_PLAIN = re.compile(r"[^A-Za-z0-9_.-]")


def import_text(
    model: Model, max_length: int | None = None, limits: Limits = LIMITS
) -> Graph:
    """The graph of a text encoder, for texts of 1 to max_length tokens.

    Its inputs are token ids and perhaps token types; without `max_length`, the longest text is
    what its position table allows. UnsupportedError names operator and node.
    """
    limit = max_length or LONGEST
    importer = Importer(model, limit, limits=limits)
    graph = importer.graph()
    longest = min(importer.longest, graph.max_length)
    if max_length is not None and max_length > longest:
        raise InputError(f"maximum length {max_length} is outside 2..{longest} of this model")
    if max_length is None:
        # Comparisons with the length are decided for the lengths that there are.
        best = longest if longest < limit else DEFAULT_LENGTH
        if best < 2:
            raise UnsupportedError(
                "the graph fits texts of one token only; export with a dynamic number of tokens"
            )
        graph = Importer(model, best, limits=limits).graph()
    return _sane(graph)


def import_tensors(model: Model, known_inputs: Mapping[str, np.ndarray]) -> Graph:
    """The graph of a model of float tensors whose shapes are all fixed.

    Inputs of other types must be given; they become constants.
    """
    return _sane(Importer(model, 1, known_inputs).graph())


def _sane(graph: Graph) -> Graph:
    """The graph, if every value has elements and none more than a library could hold."""
    for n in graph.nodes:
        if not _has_elements(graph.shape(n.output), graph.max_length):
            raise UnsupportedError(
                f"node '{n.where}': {graph.types[n.output]} is empty or has more than {MOST} "
                "elements; export the model anew"
            )
    return graph


def _has_elements(shape: Shape, longest: int) -> bool:
    """Whether there are elements at every length, and never more than MOST."""
    try:
        counts = [at_lengths(d, longest) for d in shape]
    except Undecided:
        return False
    most = max(dim_at(product(shape), s) for s in (1, longest))
    return all(c.min() >= 0 for c in counts) and 0 not in shape and most <= MOST


def _limits(graph: Graph) -> dict[str, int]:
    """Rows of the smallest table that each input, or a part of it, looks up."""
    made, limits = graph.producers(), dict[str, int]()
    for n in graph.nodes:
        if n.op in ("gather", "quantized_gather"):
            ids = name = n.inputs[-1]
            rows = int(graph.constants[n.inputs[0]].shape[0])
            if not rows:
                raise UnsupportedError(f"node '{n.where}': its table has no rows; export it anew")
            while name in made and OPS[made[name].op].view:
                name = made[name].inputs[0]
            if name in graph.constants and made[ids].op != "slice":
                raise UnsupportedError(
                    f"node '{n.where}': looking up rows by numbers that are in the file; "
                    "export a model that takes token ids"
                )
            limits[name] = min(rows, limits.get(name, rows))
    return limits


def _live(graph: Any, wanted: Sequence[str]) -> list[Any]:
    """The nodes that the wanted results need, in their order."""
    needed, found = set(wanted), []
    for n in reversed(graph.node):
        if not needed.isdisjoint(n.output):
            found.append(n)
            needed.update(n.input)
    return found[::-1]


class Importer(Builder):
    """The walk over the nodes: each by the rule of its operator, those refused noted."""

    def __init__(
        self, model: Model, max_length: int, given: Mapping[str, np.ndarray] | None = None,
        limits: Limits = LIMITS,
    ) -> None:  # fmt: skip
        super().__init__(model.opset, max_length, limits)
        require_nodes(len(model.graph.node), limits)
        self.model, self.given = model, given
        self.computed: dict[int, np.ndarray] = {}  # arrays that rules made, by id
        self.bytes = 0  # of these
        self.values: dict[str, Any] = {"": None}  # Values, and quantised ones
        self.unknown: set[str] = set()  # results of which not even the type is known
        self.problems: list[Problem] = []
        # Of a text, results that are not floats are not wanted.
        self.asked = [
            o
            for o in model.graph.output
            if given is not None or o.type.tensor_type.elem_type in (0, *_FLOATS)
        ]
        self.live = _live(model.graph, [o.name for o in self.asked])
        self.read = {name for n in self.live for name in n.input}
        self.read.update(o.name for o in self.asked)

    def graph(self) -> Graph:
        for name, array in self.model.tensors.items():
            self.values[name] = known(array)
            self.note(self.values[name])
        self.bytes = 0  # what the file holds does not count
        self.values.update(bind_inputs(self, self.model, self.given))
        for n in self.live:
            self.current = n
            self._call_or_note(n)
        self.current = None
        if self.problems:
            raise UnsupportedError.of(self.problems)
        outputs = self._outputs()
        raw = retype(Graph(tuple(self.inputs), self.constants, tuple(self.nodes), outputs,
                           self.types, self.max_length))  # fmt: skip
        limits = _limits(raw)
        inputs = tuple(
            Input(i.name, i.type, Ids(limits.get(i.name))) if isinstance(i.kind, Ids) else i
            for i in raw.inputs
        )
        return limited(verify(raw.replace(inputs=inputs)))

    def _call_or_note(self, n: Any) -> None:
        """Import a node; one that is refused is noted, and the walk goes on after it."""
        missing = [i for i in n.input if i not in self.values and i not in self.unknown]
        if missing:
            raise InputError(f"node '{self.where()}' reads '{missing[0]}', which nothing computes")
        ruled = n.domain in ("", "ai.onnx") and n.op_type in RULES
        known_operands = self.unknown.isdisjoint(n.input)
        if not ruled:
            self.problems.append(self.problem(n, remedy(n)))
        elif known_operands:
            try:
                self._call(n)
                return
            except UnsupportedError as error:
                if not error.problems:
                    raise
                self.problems += error.problems
        operands = {i: self.values.get(i) for i in n.input}
        made = stand_ins(self, n, operands) if known_operands else {}
        self.values.update(made)
        self.unknown.update(name for name in n.output if name not in made)

    def _call(self, n: Any) -> None:
        operands = [self.values[i] for i in n.input]
        attributes = self._attributes(n)
        try:
            require_arity(self, n, operands, attributes)
            results = called(self, n.op_type, RULES[n.op_type], operands, attributes)
        except Undecided as error:
            raise self.unsupported(str(error)) from None
        except (
            TypeError, ValueError, LookupError, ArithmeticError, AttributeError, MemoryError
        ) as error:  # fmt: skip
            # The file may hold any operands: what a rule cannot take must not end in a traceback.
            what = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
            raise self.unsupported(f"what it is given ({what})") from None
        for x in results:
            self.note(x)
        for i, name in enumerate(n.output):
            if i < len(results):
                self.values[name] = results[i]
            elif name in self.read:
                raise self.unsupported(f"its result {i + 1}")

    def note(self, x: Value | None) -> None:
        """Count the memory of elements that are known; views of an array cost nothing more."""
        if not isinstance(x, Known):
            return
        array = x.array
        while isinstance(array.base, np.ndarray):
            array = array.base
        if id(array) not in self.computed:
            self.computed[id(array)] = array
            self.bytes += array.nbytes
        if self.bytes > self.limits.constants:
            raise InputError(
                f"node '{self.where()}': what is computed at compile time takes more than "
                f"{self.limits.constants / 1e9:.1f} GB; give a larger --max-memory if that is meant"
            )

    def _attributes(self, n: Any) -> dict[str, Any]:
        onnx = require_onnx()
        out: dict[str, Any] = {}
        for a in understood(self, n):
            value = onnx.helper.get_attribute_value(a)
            if isinstance(value, bytes):
                value = value.decode("utf-8", "replace")
            elif isinstance(value, onnx.TensorProto):
                value = self.model.tensor(value)
            out[a.name] = value
        return out

    def _outputs(self) -> tuple[tuple[str, str], ...]:
        found: dict[str, str] = {}
        for o in self.asked:
            x = plain(self, self.values.get(o.name))
            declared = o.type.tensor_type.elem_type
            if self.given is not None and isinstance(x, Levels) and x.exact:
                x = x.name  # the caller makes whole numbers of these floats
            elif self.given is not None and declared != F32.onnx:
                raise UnsupportedError(f"output '{o.name}' is not float32")
            if isinstance(x, Known) and self.given is not None and x.dtype == F32:
                x = self.name(x)
            if isinstance(x, str) and self.types[x].dtype == F32:
                # Names come from the file, and go into C and into manifests.
                shown = _PLAIN.sub("_", o.name)[:100] or "output"
                while shown in found:
                    shown += "_"
                batched = self.given is not None or self.types[x].shape
                found[shown] = x if batched else self.reshape(x, (1,))
            elif self.given is not None:
                raise UnsupportedError(f"output '{o.name}' is not float32 computed from the inputs")
        if not found:
            raise UnsupportedError(
                "no output is a float tensor computed from the inputs; export the model with its "
                "logits or hidden states as outputs"
            )
        return tuple(found.items())
