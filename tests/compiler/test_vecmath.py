"""The error bounds that emit/vecmath.py states, on this machine's widest ISA and on plain C."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import erf, expit
from transformers.activations import ACT2FN

from canao.compiler.pipeline import compile_model
from canao.inference.compiled_model import CompiledModel
from canao.target import get_target

pytestmark = pytest.mark.as_shipped

HOST = get_target()
ROWS, WIDTH = 400, 61  # a width off every vector
X = np.linspace(-12, 12, ROWS * WIDTH).astype(np.float32).reshape(ROWS, WIDTH)
WIDE = X.astype(np.float64)
CUBIC = np.sqrt(2 / np.pi) * (WIDE + 0.044715 * WIDE**3)
SCALE = np.maximum(1, np.abs(WIDE))
xielu = ACT2FN["xielu"].float()


def exact_xielu() -> np.ndarray:
    """By its definition, arXiv 2411.13010, equation 9, with the constants of Transformers."""
    positive, negative = (
        np.logaddexp(float(a), 0) for a in (xielu.alpha_p.detach(), xielu.alpha_n.detach())
    )
    beta, eps = float(xielu.beta), float(xielu.eps)
    below = (np.expm1(np.minimum(WIDE, eps)) - WIDE) * (beta + negative)
    return np.where(WIDE > 0, positive * WIDE**2, below) + beta * WIDE


# name -> (torch function, exact values, largest error allowed at each x)
FUNCTIONS = {
    "exp": (torch.exp, np.exp(WIDE), 3e-7 * np.exp(WIDE)),
    "erf": (torch.erf, erf(WIDE), 5e-7),
    # From the least normal number to the largest power that X allows.
    "log": (lambda x: torch.log(torch.exp(x * 7)), np.log(np.exp((X * 7).astype(np.float64))),
            3e-7 * np.maximum(1, np.abs(7 * WIDE)) + 3e-7),
    "tanh": (torch.tanh, np.tanh(WIDE), 4e-7 * np.abs(np.tanh(WIDE))),
    "sigmoid": (torch.sigmoid, expit(WIDE), 5e-7),
    "gelu": (torch.nn.GELU(), WIDE * 0.5 * (1 + erf(WIDE / np.sqrt(2))), 5e-7 * SCALE),
    "gelu_tanh": (torch.nn.GELU("tanh"), 0.5 * WIDE * (1 + np.tanh(CUBIC)), 5e-7 * SCALE),
    "softplus": (torch.nn.Softplus(), np.logaddexp(WIDE, 0), 5e-7 * SCALE),
    "xielu": (xielu, exact_xielu(), 1e-6 * SCALE**2),
    "silu": (torch.nn.SiLU(), WIDE * expit(WIDE), 5e-7 * SCALE),
}


class Table(torch.nn.Module):
    """The function of every number in X, one row a token."""

    def __init__(self, function) -> None:
        super().__init__()
        self.table = torch.nn.Embedding.from_pretrained(torch.from_numpy(X))
        self.function = function

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.function(self.table(input_ids))


@pytest.mark.parametrize("isa", sorted({"scalar", HOST.isa}))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_bound(name: str, isa: str, tmp_path: Path) -> None:
    function, exact, bound = FUNCTIONS[name]
    artifact = compile_model(
        Table(function), tmp_path / "out", target=HOST.with_isa(isa), max_length=ROWS
    )
    with CompiledModel(artifact) as compiled:
        got = compiled(np.arange(ROWS)).astype(np.float64)
    assert (np.abs(got - exact) <= bound).all(), float((np.abs(got - exact) / bound).max())
