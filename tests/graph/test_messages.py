"""What is refused is named as people name it: no addresses in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from canao.errors import InputError, UnsupportedError, plain
from canao.graph.from_torch.trace import trace


class Odd(nn.Module):
    """A text encoder with something odd between its look-up and its result."""

    def __init__(self, odd: Any) -> None:
        super().__init__()
        self.table, self.odd = nn.Embedding(9, 4), odd

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.odd(self.table(input_ids))


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x**5

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
        return g


def looped(x: torch.Tensor) -> torch.Tensor:
    def body(i: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return i + 1, y * 2

    return torch.while_loop(lambda i, y: i.sum() < 3, body, (torch.zeros(1), x))[1]


def without_gradients(x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu"):
        return torch.linalg.det(x @ x.mT)


MODULES: dict[str, Any] = {
    "fft": lambda x: torch.fft.fft(x).abs(),
    "sort": lambda x: x.sort()[0],
    "topk": lambda x: x.topk(2)[0],
    "unfold": lambda x: x.unfold(2, 2, 1),
    "einsum": lambda x: torch.einsum("bsi,bsj,bti->bst", x, x, x),
    "control flow": lambda x: x if x.sum() > 0 else -x,
    "item": lambda x: x * int(x.sum()),
    "cond": lambda x: torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y - 1, (x,)),
    "loop": looped,
    "own function": Squared.apply,
    "autocast": without_gradients,
    "lstm": nn.LSTM(4, 4),
    "conv2d": lambda x: nn.functional.conv2d(x[None], torch.ones(1, 1, 3, 3)),
    "complex": lambda x: torch.view_as_complex(x.reshape(1, -1, 2, 2)).real,
    "vmap": lambda x: torch.vmap(torch.det)(x[..., None] * x[:, :, None]),
    "python object": lambda x: x * object(),
    "builtin": lambda x: torch.tensor(sum(map(float, x.flatten()))),
    "power": lambda x: x**5,
}


@pytest.mark.parametrize("name", MODULES)
def test_no_message_has_an_address(name: str) -> None:
    with pytest.raises(UnsupportedError, match=r"not|cannot") as error:
        trace(Odd(MODULES[name]), 16)
    said = [str(error.value), *map(str, error.value.problems)]
    assert not any("0x" in text or "<function" in text for text in said), said
    assert "\n" not in said[0]


@pytest.mark.parametrize("thing", [plain, len, "".join, object(), Odd, MODULES["fft"]])
def test_things_are_called_by_their_names(thing: object) -> None:
    text = str(InputError(f"cannot use {thing!r} here"))
    assert "0x" not in text and text.startswith("cannot use ") and text.endswith(" here")


def test_numbers_stay_as_they_are() -> None:
    assert plain("flags 0x7f and 0xffff") == "flags 0x7f and 0xffff"
    assert plain(f"<function {plain.__name__} at 0x7f0011223344>") == "plain"


@pytest.mark.parametrize(("family", "sizes", "word"), [
    ("T5", {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2},
     "T5EncoderModel"),
    ("Bart", {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16,
              "decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
     "no class for the encoder alone"),
])  # fmt: skip
def test_encoder_decoders(family: str, sizes: dict[str, int], word: str) -> None:
    config = getattr(transformers, f"{family}Config")(vocab_size=60, **sizes)
    module = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    with pytest.raises(UnsupportedError, match=word) as error:
        trace(module, 16)
    assert f"{family}ForConditionalGeneration: it has a decoder" in str(error.value)


def test_a_decoder_with_odd_norms() -> None:
    """Gemma's call operators of Python, which are called by their names."""
    config = transformers.GemmaConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, head_dim=8,
        num_key_value_heads=1, intermediate_size=32, max_position_embeddings=64,
    )  # fmt: skip
    try:
        assert trace(transformers.GemmaForCausalLM(config).eval(), 16).nodes
    except UnsupportedError as refusal:
        assert "0x" not in str([str(refusal), *refusal.problems])  # noqa: PT017
