"""The cores that are named for a library."""

from __future__ import annotations

import pytest

from canao.device.cores import described, named_cores
from canao.errors import InputError
from canao.machine import Cluster, Machine

PHONE = Machine(clusters=(
    Cluster((6, 7), capacity=1024, mhz=2800), Cluster((4, 5), capacity=800, mhz=2250),
    Cluster((0, 1, 2, 3), capacity=250, mhz=1800),
))  # fmt: skip
TWO = Machine(clusters=(Cluster((4, 5)), Cluster((0, 1, 2, 3))))
ONE = Machine(clusters=(Cluster((0, 1)),))


@pytest.mark.parametrize(
    ("text", "machine", "threads", "cores"),
    [
        ("", PHONE, 3, ()),
        ("big", PHONE, 1, (6,)),
        ("big", PHONE, 2, (6, 7)),
        ("middle", PHONE, 2, (4, 5)),
        ("little", PHONE, 3, (0, 1, 2)),
        ("little", TWO, 1, (0,)),
        ("big", ONE, 2, (0, 1)),
        ("4-7", PHONE, 4, (4, 5, 6, 7)),
        ("7, 0-1", PHONE, 3, (7, 0, 1)),
        ("3", Machine(), 1, (3,)),  # one that does not tell its cores
    ],
)
def test_names(text: str, machine: Machine, threads: int, cores: tuple[int, ...]) -> None:
    assert named_cores(text, machine, threads) == cores


@pytest.mark.parametrize(
    ("text", "machine", "threads", "words"),
    [
        ("big", PHONE, 3, "are 2 for 3 threads; give --threads 2 at most"),
        ("middle", TWO, 1, r"there are none .*; the cores are 4-5, 0-3"),
        ("little", ONE, 1, "there are none"),
        ("little", Machine(), 1, "the cores are unknown"),
        ("4,9", PHONE, 2, r"there is no core 9; there are 0, 1, 2, 3, 4, 5, 6, 7"),
        ("4,5", PHONE, 1, "are 2 cores for 1 threads; .* --threads 2"),
        ("4,4", PHONE, 2, "names a core twice"),
        ("7-4", PHONE, 1, "give big, middle, little, or numbers"),
        ("fast", PHONE, 1, "give big, middle, little, or numbers"),
        ("-1", PHONE, 1, "give big, middle, little, or numbers"),
        ("0-99999", PHONE, 1, "give big, middle, little, or numbers"),
    ],
)
def test_what_there_is_not(text: str, machine: Machine, threads: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        named_cores(text, machine, threads)


def test_cores_that_may_not_be_used() -> None:
    some = Machine(clusters=PHONE.clusters, allowed=(0, 1, 7))
    assert named_cores("big", some, 1) == (7,)
    with pytest.raises(InputError, match="there are none that may be used"):
        named_cores("middle", some, 1)


def test_described() -> None:
    assert described(PHONE) == "6-7 (2800 MHz), 4-5 (2250 MHz), 0-3 (1800 MHz)"
    assert described(Machine(clusters=(Cluster((0, 2, 3, 4)),))) == "0,2-4"
