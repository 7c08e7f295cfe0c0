"""The kernels of a program: which steps share one, and which pointers their text uses."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest

from canao.compiler.stages import Stages
from canao.emit.arguments import Arguments
from canao.emit.c.kernels import kernel_text
from canao.isa.registry import ISAS
from canao.schedule.schedule import Step
from tests.scheduled import NAMES, staged_all

POINTER = re.compile(r"\b(?:in|ids|w)\d+\b")


def texts(stages: Stages) -> list[tuple[Step, str]]:
    """Each step with the C of its kernel, emitted for the step alone, without the kernel's name."""
    graph, isa = stages.program.graph, ISAS[stages.target.isa]
    return [(step, kernel_text(graph, step, isa).text.replace(step.name, "KERNEL"))
            for step in stages.schedule.steps if not step.appends]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_steps_share_a_kernel_exactly_when_their_code_is_the_same(name):
    for stages in staged_all(name):
        by_name, by_text = defaultdict(set), defaultdict(set)
        for step, text in texts(stages):
            by_name[step.name].add(text)
            by_text[re.sub(r"_v\d+$", "", step.name), text].add(step.name)
        assert {n: len(t) for n, t in by_name.items() if len(t) > 1} == {}  # one name, two codes
        assert [names for names in by_text.values() if len(names) > 1] == []  # one code, two names


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_uses_every_pointer_that_its_step_reads_and_no_other(name):
    for stages in staged_all(name):
        for step, text in texts(stages):
            names = set(Arguments(step.reads).names.values())
            assert set(POINTER.findall(text)) <= names, step.name
            # Parameters, arguments of calls and `(void)` are no use; an index or an offset is.
            used = {n for n in names if re.search(rf"\b{n}(?:\[| \+)", text)}
            assert used == names, step.name


def test_the_corpus_has_steps_that_share_kernels_and_kernels_that_share_a_base_name():
    programs = [[s.name for s in stages.schedule.steps]
                for name in NAMES for stages in staged_all(name)]  # fmt: skip
    assert any(len(set(steps)) < len(steps) for steps in programs)
    assert any(re.search(r"_v\d+$", step) for steps in programs for step in steps)
