from __future__ import annotations

import pytest

from canao.errors import InputError
from canao.model.arch import Arch
from canao.search import Space

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


def test_bert_base_may_halve_its_heads_and_minilm_may_not() -> None:
    assert Space.of_teacher(TEACHERS[1]).head_sizes == (64,)
    assert Space.of_teacher(TEACHERS[0]).head_sizes == (32,)


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
