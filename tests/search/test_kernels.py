"""The kernels of an architecture, told from its halves, are those that its library runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig

from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph
from canao.model import hf
from canao.model.arch import Arch, Block
from canao.search.latency.kernels import Imported, KernelNames, Known, survey
from canao.target import get_target
from canao.train.data import load_data
from canao.train.options import TrainOptions
from canao.train.trainer import Trainer
from tests.train.tiny_bert import save_tiny, write_task

TINY = BertConfig(vocab_size=300, max_position_embeddings=64)


def blank(arch: Arch) -> object:
    return hf.build_classifier(hf.student_config(TINY, arch)).eval()


def run_by(arch: Arch, precision: str) -> Counter[str]:
    """What the library of a model of that architecture runs."""
    stages = compile_graph(load_model(blank(arch))[1], get_target(), precision=precision)
    return Counter(name for name in stages.schedule.kernel_names() if name)


def but_for_rounding(names: Counter[str]) -> Counter[str]:
    """The same, whether or not kernels round their rows for what follows."""
    return sum((Counter({name.replace("_layer_norm_quantize", "_layer_norm"): count})
                for name, count in names.items()), Counter())  # fmt: skip


def test_halves_tell_every_sequence_in_one_precision() -> None:
    """The last half rounds nothing, all others do, and so does what is before the first."""
    told = KernelNames(Imported(blank, get_target(), "int8"), Known())
    told.of(Arch(40, 8, (Block(1, 8), Block(2, 33))))
    for blocks in ((2, 33), (1, 8)), ((2, 33), (1, 8), (1, 33), (2, 33), (2, 8)):
        arch = Arch(40, 8, tuple(Block(*b) for b in blocks))
        expected = run_by(arch, "int8")
        assert told.recalled(arch) == expected, arch
        assert sum("_layer_norm_quantize" in n for n in expected.elements()) == 2 * len(blocks)


def test_halves_tell_every_sequence() -> None:
    """Two models are imported; random sequences of their halves, of other numbers of layers and
    with precisions of their own, follow."""
    heads, ffn, precision = (1, 2, 5), (8, 33, 130), "float32"
    asked: list[Arch] = []

    class Counted(Imported):
        def __call__(self, arch: Arch) -> list[tuple[str, int]]:
            asked.append(arch)
            return super().__call__(arch)

    told = Counted(blank, get_target(), precision)
    names = KernelNames(told, Known())
    mixed = Arch(40, 8, (Block(1, 8), Block(1, 8, "int8")))
    for one in survey(mixed, heads, ffn, 3):
        names.of(one)
    assert len(asked) == 2
    rng = np.random.default_rng(3)
    for _ in range(2):
        blocks = []
        while len(blocks) < 4:
            pair = int(rng.choice((0, *heads))), int(rng.choice((0, *ffn)))
            if any(pair):
                blocks.append(Block(*pair, str(rng.choice(["", "int8"]))))
        arch = Arch(40, 8, tuple(blocks))
        if told.isa(arch) == told.isa(mixed):
            assert but_for_rounding(names.recalled(arch)) == but_for_rounding(
                run_by(arch, precision)), arch  # fmt: skip
    plain = Arch.uniform(2, 40, 5, 33)
    assert names.of(plain) == run_by(plain, precision)
    # Where int8 is for another instruction set, so are the kernels in float32 beside it.
    assert len(asked) == (2 if told.isa(plain) == told.isa(mixed) else 3)


def test_importing_leaves_torchs_generator_alone(tmp_path: Path) -> None:
    data = load_data(write_task(tmp_path / "task"), None, 0)
    teacher = save_tiny(tmp_path / "teacher")
    trainer = Trainer(teacher, data, tmp_path / "w", TrainOptions(max_length=16), lambda *a: None)
    torch.manual_seed(3)
    trainer.blank(Arch(16, 8, (Block(1, 8), Block(0, 8))))
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize("kind", ["three", "values"])
def test_kernels_are_those_for_the_labels_of_the_data(kind: str, tmp_path: Path) -> None:
    """Of three classes, or of a value, and not of the labels in the teacher's config.json."""
    folder = write_task(tmp_path / "task", "values" if kind == "values" else "classes")
    if kind == "three":
        train = (folder / "train.tsv").read_text().replace("\tneg", "\tbad", 5)
        (folder / "train.tsv").write_text(train)
    data = load_data(folder, "text-regression" if kind == "values" else None, 0)
    assert len(data.labels) == {"three": 3, "values": 0}[kind]
    trainer = Trainer(save_tiny(tmp_path / "teacher"), data, tmp_path / "w",
                      TrainOptions(max_length=16, teacher_epochs=1), lambda *a: None)  # fmt: skip
    arch = Arch(16, 8, (Block(1, 8), Block(2, 0)))
    told = KernelNames(Imported(trainer.blank, get_target(), "float32"), Known()).of(arch)
    stages = compile_graph(load_model(trainer.skeleton(arch))[1], get_target())
    assert told == Counter(name for name in stages.schedule.kernel_names() if name)
