"""An ONNX graph -> Graph: walks the nodes and applies the rule of each operator.

The text has a batch of 1 and s tokens. Nothing is padded, so the attention mask is 1 everywhere
and goes away with all that is computed from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from canao.errors import InputError, Problem, UnsupportedError
from canao.graph.ir import (
    DTYPES,
    FLOATS,
    TOKENS,
    Dim,
    Graph,
    Input,
    Node,
    Poly,
    Shape,
    Type,
    constant_type,
    dim_at,
    node,
    product,
)
from canao.graph.limits import limited
from canao.graph.onnx.load import Model, require_onnx
from canao.graph.onnx.rules import RULES
from canao.graph.onnx.values import (
    Known,
    Ramp,
    Undecided,
    Value,
    at_lengths,
    computed,
    expanded,
    fill,
    holds,
    known,
    shifted,
)
from canao.graph.ops import OPS, ShapeError, broadcast
from canao.graph.verify import MalformedGraph, infer, retype, verify

# Names that exporters and Hugging Face give to the inputs of a text encoder.
IDS = ("input_ids", "input", "ids", "tokens", "token_ids", "input.1")
TYPES = ("token_type_ids", "segment_ids", "token_types")
MASKS = ("attention_mask", "input_mask", "mask", "attention_masks")
POSITIONS = ("position_ids", "positions")
# The longest text of a model whose tables don't say, and of any model.
DEFAULT_LENGTH, LONGEST = 512, 1 << 15
MOST = 1 << 31  # elements of one value
_FLOAT, _INTS = (1, 10, 11, 16), (6, 7)
_PLAIN = re.compile(r"[^A-Za-z0-9_.-]")


def import_text(model: Model, max_length: int | None = None) -> Graph:
    """The graph of a text encoder, for texts of 1 to max_length tokens.

    Its inputs are token ids and perhaps token types; without `max_length`, the longest text is
    what its position table allows. UnsupportedError names operator and node.
    """
    limit = max_length or LONGEST
    importer = Importer(model, limit)
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
        graph = Importer(model, best).graph()
    return _sane(graph)


def import_tensors(model: Model, known_inputs: Mapping[str, np.ndarray]) -> Graph:
    """The graph of a model of float tensors whose shapes are all fixed.

    Inputs of other types must be given; they become constants.
    """
    return _sane(Importer(model, 1, known_inputs).graph())


def _sane(graph: Graph) -> Graph:
    """The graph, if every value has elements and none more than a library could hold."""
    for n in graph.nodes:
        shape = graph.shape(n.output)
        counts = [at_lengths(d, graph.max_length) for d in shape]
        empty = any(d == 0 for d in shape) or any(c.min() < 0 for c in counts)
        most = max(dim_at(product(shape), s) for s in (1, graph.max_length))
        if empty or most > MOST:
            raise UnsupportedError(
                f"node '{n.where}': {graph.types[n.output]} is empty or has more than {MOST} "
                "elements; export the model anew"
            )
    return graph


def _limits(graph: Graph) -> dict[str, int]:
    """Rows of the smallest table that each input, or a part of it, looks up."""
    made, limits = graph.producers(), dict[str, int]()
    for n in graph.nodes:
        if n.op == "gather":
            name, rows = n.inputs[1], int(graph.constants[n.inputs[0]].shape[0])
            if not rows:
                raise UnsupportedError(f"node '{n.where}': its table has no rows; export it anew")
            while name in made and OPS[made[name].op].view:
                name = made[name].inputs[0]
            if name in graph.constants and made[n.inputs[1]].op != "slice":
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


class Importer:
    """What the rules work with: values by name, and the graph that grows."""

    def __init__(
        self, model: Model, max_length: int, given: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self.model, self.max_length, self.given = model, max_length, given
        self.longest = max_length
        self.constants: dict[str, np.ndarray] = {}
        self.nodes: list[Node] = []
        self.types: dict[str, Type] = {}
        self.values: dict[str, Value | None] = {"": None}
        self.inputs: list[Input] = []
        self.held: dict[tuple[Any, ...], tuple[str, Any]] = {}
        self.current: Any = None
        # Of a text, results that are not floats are not wanted.
        self.asked = [
            o
            for o in model.graph.output
            if given is not None or o.type.tensor_type.elem_type in (0, *_FLOAT)
        ]
        self.live = _live(model.graph, [o.name for o in self.asked])
        self.read = {name for n in self.live for name in n.input}
        self.read.update(o.name for o in self.asked)

    def graph(self) -> Graph:
        for name, array in self.model.tensors.items():
            self.values[name] = known(array)
        self._require_rules()
        self._bind_inputs()
        for n in self.live:
            self.current = n
            self._call(n)
        self.current = None
        outputs = self._outputs()
        raw = retype(Graph(tuple(self.inputs), self.constants, tuple(self.nodes), outputs,
                           self.types, self.max_length))  # fmt: skip
        limits = _limits(raw)
        inputs = tuple(Input(i.name, i.type, i.limit or limits.get(i.name, 0)) for i in raw.inputs)
        return limited(verify(raw.replace(inputs=inputs)))

    # What the rules call.

    def emit(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        n = node(op, inputs, name, where=self.where(), **attributes)
        try:
            self.types[name] = infer(n, [self.types[i] for i in inputs])
        except MalformedGraph as error:
            raise self.unsupported(f"operands of these shapes ({error})") from None
        self.nodes.append(n)
        return name

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name], self.types[name] = array, constant_type(array)
        return name

    def pointwise(self, op: str, *operands: Value) -> Value:
        """An element-wise operator, computed now where its operands are known."""
        try:
            if all(isinstance(x, Known) for x in operands):
                return computed(op, operands, self.max_length)  # type: ignore[arg-type]
            if len(operands) == 2 and (found := shifted(op, *operands, self.max_length)):
                return found
            shape = broadcast([self.shape(x) for x in operands])
        except ShapeError as error:
            raise self.unsupported(f"operands of these shapes ({error})") from None
        result = self.emit(op, *(self._operand(x) for x in operands))
        return self.spread(result, shape)

    def spread(self, x: Value, shape: Shape) -> Value:
        """x repeated to `shape`."""
        if self.shape(x) == shape:
            return x
        if not isinstance(x, str):
            return expanded(Known(x.array, shape, x.dtype) if isinstance(x, Known) else x, shape)
        return self.emit("expand", x, shape=shape)

    def reshape(self, x: str, shape: Shape) -> str:
        return x if self.types[x].shape == shape else self.emit("reshape", x, shape=shape)

    def name(self, x: Value) -> str:
        """The graph value that holds x."""
        if isinstance(x, str):
            return x
        if isinstance(x, Ramp):
            return self._name_ramp(x)
        held = self._held(x)
        if self.types[held].shape == x.shape:
            return held
        return self.emit("expand", held, shape=x.shape)

    def transposed_weight(self, x: Known) -> str:
        """A constant [k, n] as the weight [n, k] of a product."""
        key = ("transposed", id(x))
        if key not in self.held:
            array = np.ascontiguousarray(self._array(x).T)
            self.held[key] = (self.constant(array), x)
        return self.held[key][0]

    def shape(self, x: Value) -> Shape:
        return self.types[x].shape if isinstance(x, str) else x.shape

    def dtype(self, x: Value) -> str:
        return self.types[x].dtype if isinstance(x, str) else x.dtype

    def whole(self, x: Value | None, what: str) -> list[Dim]:
        """The elements of a shape, an axis or bounds, which must be known."""
        if not isinstance(x, Known) or x.dtype == "bool":
            raise self.unsupported(f"{what} that is computed from the text")
        return [v if isinstance(v, Poly) else int(v) for v in x.full().reshape(-1)]

    def numbers(self, x: Value | None, what: str) -> list[int]:
        found = self.whole(x, what)
        if any(isinstance(v, Poly) for v in found):
            raise self.unsupported(f"{what} that depends on the number of tokens")
        return [int(v) for v in found]  # type: ignore[arg-type]

    def holds(self, test: Any, a: Dim, b: Dim) -> bool:
        return holds(test, a, b, self.max_length)

    def fits(self, size: Dim, room: Dim) -> None:
        """Texts must be so short that `size` is at most `room`: the rows of a table."""
        if not isinstance(room, int):
            return
        too_long = np.flatnonzero(at_lengths(size, self.longest) > room)
        if too_long.size and too_long[0] == 0:
            raise self.unsupported(f"reading {size} rows of {room}")
        if too_long.size:
            self.longest = int(too_long[0])

    def inside(self, start: Dim, size: Dim, room: Dim) -> None:
        """A part must lie within what it is part of, at every length."""
        first, count, most = (at_lengths(d, self.longest) for d in (start, size, room))
        if (first < 0).any() or (count < 0).any() or (first + count > most).any():
            raise self.unsupported(f"a part of {size} from {start} on, of {room},")

    def where(self) -> str:
        n = self.current
        return (n.name or (n.output[0] if n.output else "")) if n is not None else ""

    def unsupported(self, what: str) -> UnsupportedError:
        remedy = "remove it from the model, or compile the original model"
        return UnsupportedError.of([self._problem(self.current, remedy, what)])

    def _problem(self, n: Any, remedy: str, detail: str = "") -> Problem:
        operator = f"{n.domain}.{n.op_type}" if n.domain not in ("", "ai.onnx") else n.op_type
        name = n.name or (n.output[0] if n.output else "")
        return Problem(operator, f"node '{name}' (opset {self.model.opset})", remedy, detail)

    # The walk.

    def _require_rules(self) -> None:
        """UnsupportedError with every node whose operator has no rule."""
        remedy = "CANAO compiles encoders of the BERT family (see the list in docs/onnx.md)"
        without = [
            n
            for n in self.live
            if n.domain not in ("", "ai.onnx") or n.op_type not in RULES
        ]
        if without:
            raise UnsupportedError.of([self._problem(n, remedy) for n in without])

    def _call(self, n: Any) -> None:
        missing = [i for i in n.input if i not in self.values]
        if missing:
            raise InputError(f"node '{self.where()}' reads '{missing[0]}', which nothing computes")
        operands = [self.values[i] for i in n.input]
        try:
            made = RULES[n.op_type](self, *operands, **self._attributes(n))
        except Undecided as error:
            raise self.unsupported(str(error)) from None
        except (TypeError, ValueError, IndexError, ArithmeticError, MemoryError) as error:
            # The file may hold any operands: what a rule cannot take must not end in a traceback.
            what = str(error).splitlines()[0][:150] if str(error) else type(error).__name__
            raise self.unsupported(f"what it is given ({what})") from None
        results = made if isinstance(made, list) else [made]
        for i, name in enumerate(n.output):
            if i < len(results):
                self.values[name] = results[i]
            elif name in self.read:
                raise self.unsupported(f"its result {i + 1}")

    def _attributes(self, n: Any) -> dict[str, Any]:
        onnx = require_onnx()
        out: dict[str, Any] = {}
        for a in n.attribute:
            value = onnx.helper.get_attribute_value(a)
            if isinstance(value, bytes):
                value = value.decode("utf-8", "replace")
            elif isinstance(value, onnx.TensorProto):
                value = self.model.tensor(value)
            out[a.name] = value
        return out

    def _bind_inputs(self) -> None:
        stored = self.model.tensors
        slots = [i for i in self.model.graph.input if i.name not in stored]
        for slot in slots:
            tensor = slot.type.tensor_type
            if not slot.type.HasField("tensor_type"):
                raise UnsupportedError(f"input '{slot.name}' is no tensor; export without it")
            dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
            if self.given is None:
                self.values[slot.name] = self._text_input(slot.name, tensor.elem_type, dims, slots)
            else:
                self.values[slot.name] = self._tensor_input(slot.name, tensor.elem_type, dims)
        if self.given is None and not self.inputs:
            raise UnsupportedError(
                f"none of its inputs ({', '.join(i.name for i in slots) or 'it has none'}) holds "
                "token ids; give a text encoder with an input input_ids"
            )

    def _text_input(
        self, name: str, kind: int, dims: list[int | None], slots: Sequence[Any]
    ) -> Value:
        if kind not in _INTS or len(dims) != 2:
            raise UnsupportedError(
                f"input '{name}' is not whole numbers of shape [batch, tokens]; give a text "
                "encoder whose inputs are input_ids, attention_mask and token_type_ids"
            )
        if dims[0] not in (None, 1):
            raise UnsupportedError(
                f"input '{name}' has a batch of {dims[0]}; export with a batch of 1, or a dynamic "
                "one"
            )
        if dims[1] is not None:
            raise UnsupportedError(
                f"input '{name}' has the fixed length {dims[1]}; export with a dynamic number of "
                "tokens (dynamic_axes or dynamic_shapes)"
            )
        shape: Shape = (1, TOKENS)
        if name in MASKS:
            return fill(1, shape, "i32")
        if name in POSITIONS:
            return Ramp(shape, 1, 0, 1)
        if name in TYPES:
            plain = "token_type_ids"
        elif name in IDS or len(slots) == 1:
            plain = "input_ids"
        else:
            raise UnsupportedError(
                f"input '{name}' is not known; name inputs input_ids, attention_mask, "
                "token_type_ids or position_ids"
            )
        if any(i.name == plain for i in self.inputs):
            raise UnsupportedError(f"input '{name}' is a second {plain}; give a model with one")
        return self._input(plain, Type("i32", shape))

    def _tensor_input(self, name: str, kind: int, dims: list[int | None]) -> Value:
        assert self.given is not None
        if name in self.given:
            return known(self.given[name])
        if kind != 1 or any(not d for d in dims):
            raise UnsupportedError(
                f"input '{name}' is not float32 of a fixed shape; give a model of such inputs"
            )
        shape = tuple(d or 0 for d in dims)
        return self._input(f"input_{len(self.inputs)}", Type("f32", shape), FLOATS)

    def _input(self, name: str, kind: Type, limit: int = 0) -> str:
        self.inputs.append(Input(name, kind, limit))
        self.types[name] = kind
        return name

    def _outputs(self) -> tuple[tuple[str, str], ...]:
        found: dict[str, str] = {}
        for o in self.asked:
            x = self.values.get(o.name)
            declared = o.type.tensor_type.elem_type
            if self.given is not None and declared != 1:
                raise UnsupportedError(f"output '{o.name}' is not float32")
            if isinstance(x, Known) and self.given is not None and x.dtype == "f32":
                x = self.name(x)
            if isinstance(x, str) and self.types[x].dtype == "f32":
                # Names come from the file, and go into C and into manifests.
                plain = _PLAIN.sub("_", o.name)[:100] or "output"
                while plain in found:
                    plain += "_"
                batched = self.given is not None or self.types[x].shape
                found[plain] = x if batched else self.reshape(x, (1,))
            elif self.given is not None:
                raise UnsupportedError(f"output '{o.name}' is not float32 computed from the inputs")
        if not found:
            raise UnsupportedError(
                "no output is a float tensor computed from the inputs; export the model with its "
                "logits or hidden states as outputs"
            )
        return tuple(found.items())

    # Constants.

    def _array(self, x: Known) -> np.ndarray:
        """The elements of x that are held, as a constant of the graph."""
        if x.array.dtype == object:
            raise self.unsupported("a number that depends on the number of tokens, as data,")
        array = x.array
        if x.dtype == "i32" and array.size and np.abs(array.astype(np.float64)).max() >= 2**31:
            raise self.unsupported("a whole number beyond 32 bits, as data,")
        return np.ascontiguousarray(array, DTYPES[x.dtype]).reshape(array.shape)

    def _held(self, x: Known) -> str:
        key = ("array", id(x))
        if key not in self.held:
            self.held[key] = (self.constant(self._array(x)), x)
        return self.held[key][0]

    def _operand(self, x: Value) -> str:
        """x for an operator that repeats it: one number where all elements are the same."""
        if isinstance(x, Known):
            if not x.uniform:
                return self._held(x)
            number = self._array(x).reshape(())
            key = ("number", x.dtype, number.tobytes())
            if key not in self.held:
                self.held[key] = (self.constant(number), None)
            return self.held[key][0]
        return self.name(x)

    def _name_ramp(self, x: Ramp) -> str:
        size = x.shape[x.axis]
        name = self.emit("arange", stop=size)
        for op, number, neutral in (("mul", x.step, 1), ("add", x.start, 0)):
            if number != neutral:
                name = self.emit(op, name, self._operand(known(np.array(number))))
        line = tuple(size if i == x.axis else 1 for i in range(len(x.shape)))
        name = self.reshape(name, line)
        return name if line == x.shape else self.emit("expand", name, shape=x.shape)
