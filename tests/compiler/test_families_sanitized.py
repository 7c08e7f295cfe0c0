"""The generated C of families under sanitizers: positions counted from ids, relative biases,
disentangled attention, rotary positions, sliding windows, convolutions, activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.activations import ACT2CLS

from canao.build import get_toolchain
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph
from tests.compiler import programs
from tests.compiler.families import make, reference, text
from tests.compiler.test_families import Activations
from tests.compiler.test_programs import HOST, SANITIZERS, gcc
from tests.oracle import SHALLOW, assert_close

LENGTHS = (1, 7, 17, 33, 64, 127, 128)
# family -> what makes it small, with every kind of kernel that it has
SMALL = {
    "Roberta": {"num_hidden_layers": 1},
    "MPNet": {"num_hidden_layers": 1},
    "DebertaV2": {"num_hidden_layers": 1},
    "ModernBert": {"num_hidden_layers": 2},
    "SqueezeBert": {"num_hidden_layers": 1},
    "ConvBert": {"num_hidden_layers": 1},
}
WHOLE_TILES = "ModernBert"  # rotated rows, windows, gates
CASES = [(f, True) for f in SMALL] + [("DebertaV2", False)]


def _same(model: torch.nn.Module, command: list[str], names: tuple[str, ...], longest: int) -> None:
    texts = [text(model, names, n) for n in (*LENGTHS, longest)]
    got = programs.run([*command, "2"], texts)
    for ids, flat in zip(texts, got, strict=True):
        want = np.concatenate([v.ravel() for v in reference(model, names, ids).values()])
        assert_close(flat, want, f"length {len(ids[0])}")


@pytest.mark.parametrize(("family", "fusion"), CASES)
def test_families(family: str, fusion: bool, tmp_path: Path) -> None:
    model = make(family, **SMALL[family])
    stages = programs.staged(model, HOST, fusion)
    # Of one family with the register tiles that users get, which gcc takes long to compile.
    schedule = programs.few_rows(stages.program, HOST, 99 if family == WHOLE_TILES else 3)
    command = programs.build_schedule(schedule, HOST, tmp_path, get_toolchain(gcc()), SANITIZERS)
    graph = stages.program.graph
    _same(model, command, tuple(i.name for i in graph.inputs if i.given), graph.max_length)


def test_activations(tmp_path: Path) -> None:
    model = Activations(list(ACT2CLS)).float().eval()
    stages = compile_graph(load_model(model, 64)[1], HOST)
    command = programs.build(stages, HOST, tmp_path, get_toolchain(gcc()), SANITIZERS)
    ids = np.arange(64, dtype=np.int32)
    with torch.no_grad():
        want = model(torch.from_numpy(ids).long()[None])
    got = programs.run([*command, "2"], [[ids]])[0]
    flat = np.concatenate([v.numpy().ravel() for v in want.values()])
    assert_close(got, flat, tolerance=SHALLOW)
