"""Captured graphs that tests share are those of just the model that is asked for."""

from __future__ import annotations

import torch

from canao.graph.from_torch.trace import trace
from tests.captured import remembering
from tests.compiler.models import classifier


class _Table(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(9, 4)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.table(input_ids)


def test_a_model_is_captured_once_for_all_that_is_the_same() -> None:
    asked: list[torch.nn.Module] = []

    def counted(module, max_length, limits):
        asked.append(module)
        return trace(module, max_length, limits)

    captured = remembering(counted)
    first, again = (classifier("small", layers=1) for _ in range(2))
    graph = captured(first, 64)
    want = trace(first, 64).digest()
    assert graph.digest() == want and captured(again, 64) is graph and len(asked) == 1
    with torch.no_grad():
        first.bert.embeddings.word_embeddings.weight[3, 5] += 1
    assert captured(again, 64).digest() == want, "it has the weights of the other, as they are now"
    assert captured(first, 64).digest() != want and len(asked) == 2
    assert captured(again, 32).max_length == 32 and len(asked) == 3
    again.set_attn_implementation("eager")
    captured(again, 64)
    again.bert.encoder.layer[0].attention.self.scaling = 0.5
    assert captured(again, 64).digest() != want and len(asked) == 5
    other = classifier("small", layers=1)
    other.classifier.forward = lambda x: x[..., :3]
    captured(other, 64)
    plain = _Table().eval()
    assert captured(plain, 8) == captured(plain, 8) and len(asked) == 8, "not of Transformers"
