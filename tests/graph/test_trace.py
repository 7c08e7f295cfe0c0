"""What tracing a torch module finds out about its inputs."""

from __future__ import annotations

import pytest
import torch

from canao.graph.from_torch.trace import trace
from canao.graph.ir import Ids


class _TwoTables(torch.nn.Module):
    """A text whose ids are looked up in two tables."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__()
        self.first = torch.nn.Embedding(first, 4)
        self.second = torch.nn.Embedding(second, 4)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.first(input_ids) + self.second(input_ids)


@pytest.mark.parametrize("rows", [(9, 5), (5, 9)])
def test_ids_fit_every_table_that_they_are_looked_up_in(rows: tuple[int, int]) -> None:
    graph = trace(_TwoTables(*rows), 8)
    assert [i.kind for i in graph.inputs] == [Ids(5)]
