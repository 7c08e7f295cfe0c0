"""Quantisation-aware training: a model that computes in float32 what its library will in whole
numbers.

Products and tables are rounded to the levels of the kernels, by the arithmetic of
`graph/meanings.py` (activations, a scale for each token) and `precision/quantize.py` (weights, a
scale for each output channel; tables, one for each row). Gradients pass through the rounding as if
it were not there (Bengio et al. 2013, "Estimating or propagating gradients through stochastic
neurons", section 4: the straight-through estimator).

Which products these are, the compiler's own graph says. What is trained are the same float32
parameters under the same names, so that checkpoints and saved models are what they always were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from canao.defaults import LIMITS
from canao.errors import UnsupportedError
from canao.fuse.simplify import rewritten
from canao.graph.dtypes import I8, Q8
from canao.graph.from_torch.trace import trace
from canao.graph.ir import Graph, Node
from canao.model.blocks import precisions
from canao.precision.quantize import INT8, of_parts, precision_of, quantizable
from canao.train.engine.compute import device_of, in_float64

_ROUNDINGS = 1e-6  # of float32, one after another


def quantizes(precision: str) -> bool:
    """Whether libraries in a precision round what a model can be trained to be rounded to: their
    products are of whole numbers. InputError if there is no such precision."""
    return precision_of(precision).whole


def token_levels(x: Tensor, most: int = Q8.levels) -> tuple[Tensor, Tensor]:
    """Activations [..., k] as whole numbers [..., k] from -most to most and what each row's are
    multiples of, [..., 1], all float32: the op `quantize`, bit for bit."""
    top = x.abs().amax(-1, keepdim=True)
    inverse = torch.where(top > 0, most / top, torch.zeros_like(top))
    return torch.round(x * inverse), _divided(top, most)


def channel_levels(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights or rows of a table, [n, k], as whole numbers [n, k] and scales [n], all float32:
    `precision.quantize.channels`, bit for bit."""
    top = weight.abs().amax(-1, keepdim=True)
    levels = torch.where(top > 0, torch.round(weight / top * I8.levels), torch.zeros_like(weight))
    return levels, _divided(top[..., 0], I8.levels)


def _divided(x: Tensor, by: int) -> Tensor:
    """x / by. CUDA multiplies by the inverse of a plain number, which may be a rounding off."""
    return x / torch.full_like(x, by)


# By what the compiler multiplies the weights of a module, [n, k]: one number, or one for each row.
Factor: TypeAlias = float | Tensor


def rounded(weight: Tensor, factor: Factor = 1.0) -> Tensor:
    """What int8 leaves of weights or rows, [n, k], which it holds `factor` times as large."""
    levels, scales = channel_levels(_times(weight, factor))
    return levels * (scales / _on(factor, scales))[..., None]


def _times(weight: Tensor, factor: Factor) -> Tensor:
    """As fuse/rules/fold_weights.py multiplies weights: in float64, rounded once."""
    if isinstance(factor, Tensor):
        wide = in_float64(weight)
        return (wide * factor.to(wide)[:, None]).to(weight)
    return weight if factor == 1.0 else (in_float64(weight) * factor).to(weight)


def _on(factor: Factor, like: Tensor) -> Factor:
    return factor.to(like) if isinstance(factor, Tensor) else factor


class _Product(torch.autograd.Function):
    """x [..., k] by weights [n, k], and the bias [n], as the op `quantized_linear`: sums of whole
    numbers, exact as long as float32 holds them, then the scales. Those of x are `most` at most."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, factor: Factor,
        most: int = Q8.levels,
    ) -> Tensor:  # fmt: skip
        levels, unit = token_levels(x, most)
        columns, scales = channel_levels(_times(weight, factor))
        scales = scales / _on(factor, scales)
        ctx.save_for_backward(levels * unit, columns * scales[:, None])
        product = functional.linear(levels, columns) * (unit * scales)
        return product if bias is None else product + bias

    @staticmethod
    def backward(
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])
        return (
            gradient @ weight if wanted[0] else None,
            rows.T @ x.reshape(-1, x.shape[-1]) if wanted[1] else None,
            rows.sum(0) if wanted[2] else None,
            None,
            None,
        )


class _Rows(torch.autograd.Function):
    """Rows of a table as the op `quantized_gather` gives them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, factor: Factor) -> Tensor:
        return rounded(rows, factor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _linear(module: nn.Linear, factor: Factor, most: int, x: Tensor) -> Tensor:
    product: Tensor = _Product.apply(x, module.weight, module.bias, factor, most)
    return product


def _look_up(forward: Callable[[Tensor], Tensor], factor: Factor, ids: Tensor) -> Tensor:
    rows: Tensor = _Rows.apply(forward(ids), factor)
    return rows


@dataclass(frozen=True)
class FakeQuantization:
    """What of a model is rounded.

    factors   paths of its modules, and for each the number by which the compiler multiplies its
              weights before it rounds them (a scale of attention's scores, say), or the numbers of
              its rows (of a NoNorm behind it). Levels hardly depend on what multiplies a row, so
              that those of the start do while a NoNorm is trained
    most      for each the largest whole number of its activations
    """

    factors: Mapping[str, Factor]
    most: Mapping[str, int]

    @classmethod
    def of(cls, model: nn.Module, max_length: int, precision: str = INT8) -> FakeQuantization:
        """The products and tables that are rounded in a library of that precision, for texts of
        `max_length` tokens: of a model whose layers have precisions of their own, those in layers
        whose own one rounds, and in the others if the library's does.

        UnsupportedError if the model cannot be compiled, or if the compiler makes weights of a
        module's that are not the module's times a number.
        """
        training = model.training
        device = device_of(model)
        float32 = rewritten(trace(model.cpu(), max_length), True, LIMITS)[1]
        own = of_parts(float32.replace(parts=precisions(model)))
        factors, most = dict[str, Factor](), dict[str, int]()
        for n in quantizable(float32):
            used = precision_of(own.get(n.output, precision))
            if not used.whole:
                continue
            for path, rows in _sources(model, float32, n):
                factors[path] = _factor(model.get_submodule(path), rows, path)
                most[path] = used.rows.levels
        model.train(training).to(device)
        return cls(factors, most)

    @contextmanager
    def active(self, model: nn.Module) -> Iterator[None]:
        """The model computes with levels inside the block, in training and in evaluation."""
        with ExitStack() as undo:
            for path, factor in self.factors.items():
                module = model.get_submodule(path)
                forward = (
                    partial(_linear, module, factor, self.most[path])
                    if isinstance(module, nn.Linear)
                    else partial(_look_up, module.forward, factor)
                )
                # An attribute of the object goes before the method of its class.
                module.forward = forward
                undo.callback(delattr, module, "forward")
            yield


def _sources(model: nn.Module, graph: Graph, n: Node) -> Iterator[tuple[str, np.ndarray]]:
    """The modules whose weights a product, or a look-up, reads, and their rows of these. Products
    of the same rows are one in the graph, of which each takes a slice."""
    kind, place = (nn.Embedding, 0) if n.op == "gather" else (nn.Linear, 1)
    weight = graph.constants[n.inputs[place]]
    own = _module(model, n.where)
    if isinstance(own, kind) and own.weight.shape == weight.shape:
        yield n.where, weight
        return
    parts = [(u.where, dict(u.attributes)) for u in graph.users()[n.output] if u.op == "slice"]
    for path, cut in parts or [(n.where, {})]:
        if not (parts and isinstance(_module(model, path), kind)):
            raise UnsupportedError(
                f"{path}: a product that is no module of its own cannot be trained for int8; "
                "train in float32"
            )
        yield path, weight[cut["start"] : cut["stop"]]


def _module(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _factor(module: nn.Module, made: np.ndarray, path: str) -> Factor:
    """The number c for which `made` is c times the module's weights, to the bit; or that of each
    row, to a rounding or two: norms are multiplied into weights one after another."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    given = weight.detach().numpy()
    if np.array_equal(given, made):
        return 1.0
    if given.shape == made.shape:
        used = given != 0
        near = np.float32(np.median(made[used].astype(np.float64) / given[used]))
        for c in (near, *(np.nextafter(near, np.float32(end)) for end in (-np.inf, np.inf))):
            if np.array_equal((given * np.float64(c)).astype(np.float32), made):
                return float(c)
        rows, like = given.astype(np.float64), made.astype(np.float64)
        each = (rows * like).sum(1) / np.maximum((rows * rows).sum(1), np.finfo(np.float64).tiny)
        same = np.allclose(rows * each[:, None], like, rtol=_ROUNDINGS, atol=0)
        if same and each.all() and isinstance(module, nn.Linear):
            return torch.from_numpy(each)
    raise UnsupportedError(
        f"{path}: the compiler changes its weights in a way that training cannot follow; train in "
        "float32"
    )
