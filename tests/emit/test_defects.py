"""The table of known defects of OpenCL drivers, and docs/gpu.md, which has the same rows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from canao.emit.opencl.defects import APART, AVOIDED, DEFECTS, REFUSED, Defect
from canao.emit.opencl.probe import CHECKS
from canao.emit.opencl.probe_values import _FUNCTIONS as FUNCTIONS
from canao.emit.opencl.probes import probes_of
from canao.emit.vecmath import RARE

PAGE = Path(__file__).parents[2] / "docs" / "gpu.md"
DONE = {REFUSED: "the model is not opened if the check fails"}


def described(d: Defect) -> str:
    """A row of the page."""
    found = f"`{d.check}`" if d.check else "-"
    return f"| {d.drivers} | {d.wrong} | {found} | {d.how or DONE[d.measure]} | {d.source} |"


def test_the_page_has_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    between = page.split("<!-- defects: begin -->\n")[1].split("<!-- defects: end -->")[0]
    head = "| met on | what goes wrong | found by | what is done | source |\n"
    rows = "".join(f"{described(d)}\n" for d in DEFECTS)
    assert between == head + "| --- | --- | --- | --- | --- |\n" + rows
    listed = re.findall(r"^\* `(\w+)`: (.+?)[;.]?$", page, re.M)
    assert [name for name, _ in listed] == list(CHECKS)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: d.drivers)
def test_each_row_says_what_is_done_and_who_says_so(defect: Defect) -> None:
    assert defect.source and defect.wrong and defect.drivers
    assert defect.check in CHECKS or (not defect.check and defect.measure != REFUSED)
    assert (defect.measure in (APART, AVOIDED)) == bool(defect.how) or defect.measure == REFUSED
    assert all(len(part) > 4 for part in defect.met)
    # Each has to fit into one line of an error.
    assert len(defect.wrong) + len(defect.source) < 300


@pytest.mark.parametrize("vector", (4, 8, 16))
def test_every_check_is_made(vector: int) -> None:
    """By a program that uses all that has one; by others those that all have."""
    needs = frozenset({"load_f16", "q8", "dot4"})
    every = {c.name for c, _ in probes_of(vector, needs, ["vf_gelu(x)"], 64).checks()}
    assert every == set(CHECKS)
    few = {c.name for c, _ in probes_of(vector, frozenset(), [], 1).checks()}
    assert few == every - {"half_loads", "half_stores", "bytes", "dots", "levels"}


def test_functions_are_those_of_the_kernels() -> None:
    kernels = ["a = vf_tanh(b); c = vf_softplus(vf_log(d)); vf_load(e); vf_erf"]
    checks = [c for c, _ in probes_of(4, frozenset(), kernels, 64).checks()]
    functions = [c.what for c in checks if c.name == "functions"]
    assert functions == ["1 / sqrt", "log", "softplus", "tanh"]


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - {"vf_exp"}))  # which all programs ask
def test_what_a_probe_calls_is_in_its_program(name: str) -> None:
    """Whatever the model's kernels call, rare functions as well."""
    needs = frozenset(name for names in RARE.values() for name in names)
    source = probes_of(4, needs, [f"{name}(x)"], 64).source
    assert f"{name}(vf " in source and source.count(f"{name}(x)") >= 1


def test_no_words_overlap() -> None:
    """Each kernel reads and writes words of its own, from a byte on that is not the first."""
    probes = probes_of(8, frozenset({"f16_row", "load_i8"}), [], 100)
    end = len(probes.given) * 4
    at, to = 4, end
    for probe, read, written in probes.places():
        assert (read, written) == (at, to)
        at, to = at + 4 * len(probe.given), to + 4 * len(probe.right)
    assert at == end and to == end + 4 * len(probes.right)
