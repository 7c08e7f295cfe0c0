"""Capture: a PyTorch module -> Graph, through torch.export with the token count dynamic."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import operator
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.fx.experimental._config as symbolic

from canao.artifact.text_settings import PROMPT_MASK
from canao.defaults import LIMITS, Limits
from canao.errors import InputError, Problem, UnsupportedError, plain
from canao.graph.bounds import limited
from canao.graph.builder import GraphBuilder, require_nodes
from canao.graph.dtypes import BOOL, F32, I32, DType
from canao.graph.from_torch import aten, aten_views, convolve
from canao.graph.from_torch.aten_rules import joined
from canao.graph.ir import (
    TOKENS,
    Dim,
    Graph,
    Ids,
    Input,
    Poly,
    Shape,
    Type,
    constant_type,
    dim,
)
from canao.graph.verify import retype, verify

RULES = joined(aten.RULES, aten_views.RULES, convolve.RULES)
INPUT_NAMES = ("input_ids", "token_type_ids", PROMPT_MASK)
_INT = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def trace(module: torch.nn.Module, max_length: int, limits: Limits = LIMITS) -> Graph:
    """The graph of a Hugging Face encoder in eval mode, for one text of 1 to max_length tokens.

    Inputs are those of INPUT_NAMES that the module's forward takes, int
    [1, s]; outputs are the float tensors of its result, by their names there. Raises
    UnsupportedError with every operator that is not supported and its place in the module.
    """
    taken = inspect.signature(module.forward).parameters
    if "decoder_input_ids" in taken:
        raise UnsupportedError(
            f"{type(module).__name__}: it has a decoder that reads an encoder, which is not "
            f"supported; {_encoder_alone(module)}"
        )
    names = tuple(n for n in INPUT_NAMES if n in taken)
    if "input_ids" not in names:
        raise UnsupportedError(
            f"{type(module).__name__}: its forward takes no input_ids; give a text encoder"
        )
    names = tuple(n for n in names if _zero_when_left_out(module, n))
    wrapped = _OneText(module, names)
    return _Importer(_export(wrapped, names, max_length), wrapped, max_length, limits).graph()


def _encoder_alone(module: torch.nn.Module) -> str:
    """How to compile the encoder of an encoder-decoder."""
    import transformers

    family = type(module).__name__.partition("For")[0].removesuffix("Model")
    if hasattr(transformers, f"{family}EncoderModel"):
        return f"its encoder alone can be compiled: load and save it as {family}EncoderModel"
    return "its family has no class for the encoder alone"


def _zero_when_left_out(module: torch.nn.Module, name: str) -> bool:
    """Whether an input may be taken for 0 where a text has none: to GPT-2, which uses the table of
    its tokens for them, type 0 is not the same as no type."""
    if name == "input_ids":
        return True
    ids, module = torch.zeros(1, 2, dtype=torch.long), module.eval()
    alone, both = _OneText(module, ("input_ids",)), _OneText(module, ("input_ids", name))
    try:
        with torch.no_grad():
            results = alone(ids), both(ids, ids)
    except _EXPORT_ERRORS:
        return True
    # What overflows is no number either way, and equal in that.
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
               for a, b in zip(*results, strict=True))  # fmt: skip


class _OneText(torch.nn.Module):
    """Calls the module by keyword and returns its float tensors as a tuple."""

    def __init__(self, module: torch.nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names
        self.output_names: tuple[str, ...] = ()

    def forward(self, *ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = self.module(**dict(zip(self.names, ids, strict=True)))
        if isinstance(result, torch.Tensor):
            result = {"output": result}
        elif isinstance(result, (tuple, list)):
            result = {f"output_{i}": v for i, v in enumerate(result)}
        found = {
            k: v for k, v in result.items() if isinstance(v, torch.Tensor) and v.is_floating_point()
        }
        self.output_names = tuple(found)
        return tuple(found.values())


def _export(wrapped: _OneText, names: tuple[str, ...], max_length: int) -> Any:
    if max_length < 2:
        raise InputError(f"maximum length is {max_length}; it must be at least 2")
    wrapped.eval()
    size = min(8, max_length)
    # Each input needs a tensor of its own: export takes one passed twice for one input.
    example = tuple(torch.zeros(1, size, dtype=torch.long) for _ in names)
    tokens = torch.export.Dim("s", min=2, max=max_length)
    for name in ("torch.export", "torch.fx.experimental.symbolic_shapes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        # Where it fails, torch prints the graph so far: the error says what the user needs.
        silence = contextlib.redirect_stderr(io.StringIO())
        with warnings.catch_warnings(), silence, torch.no_grad():
            warnings.simplefilter("ignore")
            wrapped(*example)  # to learn the outputs' names: export undoes what it assigns
            # Sizes that depend on s are never taken for 0 or 1: what holds of the others holds of
            # those too, and s - 1, where a model shifts its tokens, must not exclude s = 2.
            with symbolic.patch(backed_size_oblivious=True):
                shapes = (tuple({1: tokens} for _ in names),)
                return torch.export.export(wrapped, example, dynamic_shapes=shapes, strict=False)
    except _EXPORT_ERRORS as error:
        raise UnsupportedError(
            f"{type(wrapped.module).__name__}: torch.export cannot capture it ({_cause(error)}); "
            "a model whose control flow depends on the tokens cannot be compiled"
        ) from None


_EXPORT_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError,
                  torch._dynamo.exc.TorchDynamoException)  # fmt: skip


def _cause(error: BaseException) -> str:
    """The first line that names something: after "Constraints violated", the constraint."""
    lines = [line.strip(" -") for line in str(error).strip().splitlines()]
    telling = [line for line in lines if not line.startswith("Constraints violated")]
    return (telling or [type(error).__name__])[0][:300]


# What a graph computes of sizes; only whole ones are read, as dimensions.
_NUMBERS = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)
_OF_LENGTH = "a number that is computed from the length of the text"


class _Importer(GraphBuilder):
    """Walks the exported program and applies the rule of each operator."""

    def __init__(
        self, program: Any, wrapped: _OneText, max_length: int, limits: Limits
    ) -> None:
        super().__init__(max_length, limits)
        self.program, self.wrapped = program, wrapped
        self.values: dict[str, Any] = {}  # names; lists of them for operators with many results
        self.scalars: dict[tuple[DType, float], str] = {}
        self.current: Any = None
        self.problems: list[Problem] = []

    def graph(self) -> Graph:
        require_nodes(len(self.program.graph.nodes), self.limits)
        self._bind_placeholders()
        outputs: tuple[tuple[str, str], ...] = ()
        for fx in self.program.graph.nodes:
            self.current = fx
            if fx.op == "call_function":
                self._call_or_note(fx)
            elif fx.op == "output":
                named = zip(self.wrapped.output_names, fx.args[0], strict=True)
                outputs = tuple((name, self.values[v.name]) for name, v in named)
        if self.problems:
            raise UnsupportedError.of(self.problems)
        inputs = tuple(Input(i.name, i.type, Ids(self._rows_read(i.name))) for i in self.inputs)
        if not outputs:
            raise UnsupportedError(f"{type(self.wrapped.module).__name__}: it returns no tensor")
        read = {name for n in self.nodes for name in n.inputs}
        inputs = tuple(i for i in inputs if i.name in read)
        raw = Graph(inputs, self.constants, tuple(self.nodes), outputs, self.types, self.max_length)
        return limited(verify(retype(raw)))

    def _rows_read(self, ids: str) -> int | None:
        """The rows of the smallest table that `ids` are looked up in; None if they never are."""
        rows = [self.types[n.inputs[0]].shape[0] for n in self.nodes
                if n.op == "gather" and n.inputs[1] == ids]  # fmt: skip
        return min((r for r in rows if isinstance(r, int)), default=None)

    # What the rules call.

    def value(self, operand: Any) -> str:
        """The name of an operand; a number becomes a constant of rank 0."""
        if isinstance(operand, str):
            return operand
        if isinstance(operand, Poly):
            raise self.unsupported(_OF_LENGTH)
        kind = F32 if isinstance(operand, float) else I32
        key = (kind, operand)
        if key not in self.scalars:
            self.scalars[key] = self.constant(np.array(operand, kind.numpy))
        return self.scalars[key]

    def type(self, name: str) -> Type:
        return self.types[name]

    def uniform(self, name: str) -> str | None:
        """The number that every element of a value is, as a value of rank 0, if it is one."""
        while name in self.made and self.made[name].op in ("expand", "reshape", "cast"):
            name = self.made[name].inputs[0]
        return name if name in self.constants and not self.types[name].shape else None

    def result_shape(self) -> Shape:
        return tuple(self._dim(d) for d in self.current.meta["val"].shape)

    def result_dtype(self) -> DType:
        return _dtype(self.current.meta["val"].dtype)

    def unsupported(self, what: str) -> UnsupportedError:
        return self._refusal("remove it from the model, or compile a model without it", what)

    # The walk.

    def _bind_placeholders(self) -> None:
        signature = self.program.graph_signature
        tensors: Mapping[str, Any] = {**self.program.state_dict, **self.program.constants}
        stored = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        names = iter(self.wrapped.names)
        shared: dict[int, str] = {}
        for fx in self.program.graph.nodes:
            if fx.op != "placeholder":
                continue
            if fx.name not in stored:
                self.values[fx.name] = self.input(next(names), Type(I32, (1, TOKENS)), Ids())
                continue
            tensor = tensors[stored[fx.name]]
            if id(tensor) not in shared:
                name = stored[fx.name].removeprefix("module.")
                self.constants[name] = _array(tensor, name)
                self.types[name] = constant_type(self.constants[name])
                shared[id(tensor)] = name
            self.values[fx.name] = shared[id(tensor)]

    def _call_or_note(self, fx: Any) -> None:
        """Translate a call; one that is refused is noted, and the walk goes on after it."""
        try:
            self._call(fx)
        except UnsupportedError as error:
            self.problems += error.problems
            try:
                made = fx.meta["val"]
                several = isinstance(made, (list, tuple))
                names = [self._stand_in(v) for v in (made if several else [made])]
            except UnsupportedError:  # a shape that has no name here either: nothing can follow
                raise UnsupportedError.of(self.problems) from None
            self.values[fx.name] = names if several else names[0]

    def _stand_in(self, tensor: torch.Tensor) -> str:
        """A value of the type that a refused call would have had."""
        name = f"refused{len(self.types)}"
        shape = tuple(self._dim(d) for d in tensor.shape)
        self.types[name] = Type(_dtype(tensor.dtype), shape)
        return name

    def _refusal(self, remedy: str, detail: str = "") -> UnsupportedError:
        problem = Problem(_shown(self.current.target), self.where(), remedy, plain(detail))
        return UnsupportedError.of([problem])

    def _call(self, fx: Any) -> None:
        if fx.target is operator.getitem:
            self.values[fx.name] = self.values[fx.args[0].name][fx.args[1]]
            return
        name, made = _operator(fx), fx.meta.get("val")
        if name in aten.IGNORED or made is None or isinstance(made, _NUMBERS):
            return
        in_place = name.endswith("_") and not name.endswith("__") and name not in RULES
        name = name.removesuffix("_") if in_place else name
        if name not in RULES:
            raise self._refusal(
                "replace it in the model by operators of docs/operators.md"
            )
        arguments = [self._argument(a) for a in fx.args]
        keywords = {
            k: self._argument(v)
            for k, v in fx.kwargs.items()
            if k not in ("device", "pin_memory", "layout", "dtype", "memory_format")
        }
        self.values[fx.name] = RULES[name](self, *arguments, **keywords)
        if in_place:
            self._overwrite(fx)

    def _overwrite(self, fx: Any) -> None:
        """Whoever reads the first operand from here on reads the result."""
        target = fx.args[0]
        seen = (n.target is operator.getitem or _operator(n) in aten_views.VIEWS
                for n in (target, *target.users))  # fmt: skip
        if target.op == "placeholder" or any(seen):
            raise self.unsupported("writing to a tensor that others may see")
        self.values[target.name] = self.values[fx.name]

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            held = argument.meta.get("val")
            if isinstance(held, torch.Tensor):
                return self.values[argument.name]
            return self._dim(held)
        if isinstance(argument, (list, tuple)):
            return [self._argument(a) for a in argument]
        return self._dim(argument) if isinstance(argument, torch.SymInt) else argument

    def _dim(self, size: Any) -> Dim:
        if isinstance(size, (torch.SymFloat, torch.SymBool)):
            raise self.unsupported(_OF_LENGTH)
        if not isinstance(size, torch.SymInt):
            return size
        import sympy

        expression = size.node.expr
        symbols = sorted(expression.free_symbols, key=str)
        if not symbols:
            return int(expression)
        try:
            coefficients = sympy.Poly(expression, *symbols[:1]).all_coeffs()
            return dim(int(c) for c in reversed(coefficients))
        except (sympy.PolynomialError, TypeError, ValueError):
            raise self.unsupported(f"the dynamic dimension {expression}") from None

    def where(self) -> str:
        stack = self.current.meta.get("nn_module_stack") or {}
        path = list(stack.values())[-1][0] if stack else ""
        return path.removeprefix("module.").removeprefix("module") or "the top of the model"


def _shown(target: Any) -> str:
    """What a graph of torch calls, as a message may say it: functions of Python by their names."""
    name = getattr(target, "__name__", None)
    return str(target) if hasattr(target, "_opname") or name is None else plain(str(name))


def _operator(fx: Any) -> str:
    return getattr(fx.target, "_opname", str(fx.target))


def _dtype(dtype: torch.dtype) -> DType:
    """What values of a type of torch's are computed in."""
    if dtype.is_floating_point:
        return F32
    return BOOL if dtype == torch.bool else I32


def _array(tensor: torch.Tensor, name: str) -> np.ndarray:
    """The tensor as f32, i32 or bool; UnsupportedError for other dtypes and values out of range."""
    if tensor.dtype.is_floating_point:
        return tensor.detach().to(torch.float32).contiguous().numpy()
    if tensor.dtype == torch.bool:
        return tensor.detach().numpy()
    if tensor.dtype in _INT:
        array = tensor.detach().numpy()
        if array.size == 0 or abs(array).max() < 2**31:
            return array.astype(I32.numpy)
    raise UnsupportedError(f"weight {name}: dtype {tensor.dtype} is not supported; save as float32")
