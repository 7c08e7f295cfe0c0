from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from canao.errors import InputError
from canao.model.arch import Arch, Block
from canao.search import Space
from canao.search.latency.kernels import survey
from canao.train.inheritance.importance import Importance
from canao.train.inheritance.inherit import keep

TEACHERS = [
    Arch.uniform(6, 384, 12, 1536),  # MiniLM
    Arch.uniform(12, 768, 12, 3072),  # BERT base
    Arch.uniform(4, 312, 12, 1200),  # TinyBERT: a head of 26
    Arch.uniform(24, 512, 4, 512),  # MobileBERT-like
    Arch.uniform(2, 128, 2, 512),  # BERT tiny
    Arch.uniform(2, 32, 4, 37),  # the odd sizes of tiny test models
    Arch.uniform(1, 37, 1, 1),
]


@pytest.mark.parametrize("teacher", TEACHERS, ids=str)
def test_space_is_a_grid_that_ends_at_the_teacher(teacher: Arch) -> None:
    space = Space.of_teacher(teacher)
    archs = list(space)
    assert len(archs) == len(set(archs)) == space.size
    assert teacher in archs
    assert space.smallest in archs
    assert all(space.contains(arch) and arch.head_size in space.head_sizes for arch in archs)
    assert space.smallest.flops(128) == min(arch.flops(128) for arch in archs)


@pytest.mark.parametrize("teacher", TEACHERS[:4], ids=str)
def test_parameters_round_trip(teacher: Arch) -> None:
    space = Space.of_teacher(teacher)
    distributions = space.distributions()
    for arch in space:
        params = space.encode(arch)
        assert space.decode(params) == arch
        assert params.keys() == distributions.keys()
        for name, value in params.items():
            known = distributions[name]
            assert known._contains(known.to_internal_repr(value)), (name, value)


def test_heads_are_as_wide_as_the_teachers_or_wider() -> None:
    assert Space.of_teacher(TEACHERS[1]).head_sizes == (64,)
    assert Space.of_teacher(TEACHERS[0]).head_sizes == (32,)


@pytest.mark.parametrize("teacher", TEACHERS, ids=str)
def test_a_student_of_the_space_has_something_to_inherit(teacher: Arch) -> None:
    """The largest of each depth and width, and all whose kernels are timed for its neighbours."""
    space, deep = Space.of_teacher(teacher), (teacher.layers, teacher.hidden)
    importance = Importance(
        hidden=torch.rand(teacher.hidden), heads=torch.rand(teacher.layers, teacher.heads),
        scores=torch.rand(deep), values=torch.rand(deep), pooled=torch.rand(teacher.hidden),
        ffn_units=torch.rand(teacher.layers, teacher.ffn),
    )  # fmt: skip
    for size in space.head_sizes:
        for hidden in space.choices()["hidden"]:
            largest = Arch.uniform(teacher.layers, hidden, hidden // size, space.ffn)
            choices = space.blocks_at(largest)
            some = survey(largest, choices["heads"], choices["ffn"], teacher.layers)
            for arch in (largest, *some):
                kept = keep(teacher, arch, importance)
                for block, values in zip(arch.blocks, kept.values, strict=True):
                    assert len(values) == block.heads * size


def test_precisions_are_in_what_a_run_remembers() -> None:
    space = Space.of_teacher(TEACHERS[0])
    assert "precisions" not in str(space)
    assert "precisions the library's, int8" in str(replace(space, precisions=("", "int8")))


def test_neighbours_differ_by_one_step_in_one_parameter() -> None:
    space = Space.of_teacher(TEACHERS[0])
    near = set(space.neighbours(Arch.uniform(3, 96, 3, 256)))
    assert near == {
        Arch.uniform(2, 96, 3, 256), Arch.uniform(4, 96, 3, 256), Arch.uniform(3, 64, 2, 256),
        Arch.uniform(3, 128, 4, 256),
        Arch.uniform(3, 96, 3, 128), Arch.uniform(3, 96, 3, 384),
    }  # fmt: skip
    assert len(set(space.neighbours(space.smallest))) == 3


def test_foreign_architecture_is_refused() -> None:
    space = Space.of_teacher(TEACHERS[0])
    with pytest.raises(InputError, match=r"L7 H384 A12 F1536 is not in the search space"):
        space.encode(Arch.uniform(7, 384, 12, 1536))


@pytest.mark.parametrize(
    "change", [{"hidden_step": 36}, {"ffn_step": 0}, {"layers": 0}, {"head_sizes": (48,)}]
)
def test_inconsistent_space_is_refused(change: dict[str, object]) -> None:
    fields: dict[str, object] = {
        "layers": 6, "hidden": 384, "hidden_step": 32, "head_sizes": (32,), "ffn": 1536,
        "ffn_step": 128,
    }  # fmt: skip
    with pytest.raises(InputError, match="search space"):
        Space(**fields | change)  # type: ignore[arg-type]


def test_a_teacher_whose_heads_are_narrower_than_itself() -> None:
    """As MobileBERT's: students have as many heads at most, whatever their width."""
    teacher = Arch(512, 32, (Block(4, 2048),) * 24)
    space = Space.of_teacher(teacher)
    assert space.contains(teacher) and space.decode(space.encode(teacher)) == teacher
    found = {(arch.hidden, arch.heads) for arch in space if arch.layers == 1 and arch.ffn == 128}
    assert found == {(32 * i, min(i, 4)) for i in range(1, 17)}
    assert space.smallest == Arch.uniform(1, 32, 1, 128) and space.contains(space.smallest)
    assert not space.contains(Arch.uniform(1, 512, 16, 128))
    assert space.blocks_at(teacher)["heads"] == (1, 2, 3, 4)
    uneven = Arch(512, 32, (Block(4, 128), Block(1, 0), Block(0, 256)))
    assert space.admits(uneven) and not space.admits(Arch(512, 32, (Block(5, 128),)))
    assert space.contains(space.nearest(uneven)) and space.nearest(uneven).heads == 4
    for near in (*space.neighbours(teacher), *space.block_moves(uneven)):
        assert space.admits(near), near
    assert "128 wide together at most" in str(space)
    assert "together" not in str(Space.of_teacher(Arch.uniform(3, 32, 4, 64)))
