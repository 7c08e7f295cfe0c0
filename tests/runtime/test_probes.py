"""What opening a model asks a driver, and what it says of one that computes wrong; defects that are
known, and a driver that cannot hold several kernels in one program."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from canao.emit.opencl.defects import APART, DEFECTS, Defect
from canao.emit.opencl.probe import BLANK, Check, Probe, Probes, Words, floats
from canao.emit.opencl.probes import probes_of
from canao.target import VECTORS
from tests.runtime.conftest import Load
from tests.runtime.fake import GPU, Fake
from tests.runtime.tiny import DEVICE, NEEDS, PROBES, Failure, Opened, Tiny, expected

pytestmark = pytest.mark.as_shipped

REMEDY = "update the driver, or take the CPU: compile the model with --backend cpu"
CHECKED = list(PROBES.checks())
KERNELS = 3 + len(PROBES.kernels)  # of the tiny program
# As Adreno's drivers name themselves.
QUALCOMM = ("OpenCL 3.0 QUALCOMM build: commit #c1fe339905 changeid #Id5fe42143e Date: 01/23/25 "
            "Local Branch:  Remote Branch: refs/tags/AU_LINUX_ANDROID_LA.VENDOR.1.0.R1.11.00.00.81 "
            "Compiler E031.38.11.14")  # fmt: skip
SEVENTH, SIXTH = "OpenCL 3.0 Adreno(TM) 730", "OpenCL 2.0 Adreno(TM) 642L"


def refused(fake: Fake) -> str:
    """What a model is not opened for; nothing of it is left."""
    with pytest.raises(Failure) as error:
        fake.open()
    assert error.value.status == DEVICE and fake.live == 0
    assert "\n" not in error.value.message
    return error.value.message


def wrong_at(check: str, value: float | int = 1e9) -> Words:
    """All words, of which the first that such a check compares is wrong."""
    words = PROBES.right.copy()
    first = next(first for c, first in CHECKED if c.name == check)
    words[first] = floats(value)[0]
    return words


def test_a_driver_that_is_right(fake: Fake) -> None:
    fake.devices((GPU, "fast", 1))
    fake.work()
    assert fake.live == 0


@pytest.mark.parametrize("number", range(len(CHECKED)))
def test_each_wrong_result_is_told(number: int, fake: Fake) -> None:
    """A number that is none of them, and nothing where there should be one."""
    check, first = CHECKED[number]
    fake.devices((GPU, "fast", 1))
    shown = r"0x[0-9a-f]{8}|nothing" if check.bits else r"-?[0-9.e+-]+|-?inf|-?nan|nothing"
    for at in {first, first + len(check.right) - 1}:
        words = PROBES.right.copy()
        words[at] = BLANK if words[at] != BLANK else floats(7)[0]
        fake.answer(words)
        told = refused(fake)
        found = re.fullmatch(rf"fast \(driver 7\) computes wrong: {re.escape(check.said)} gives "
                             rf"({shown}) where ({shown}) is right; {REMEDY}", told)  # fmt: skip
        assert found and "nothing" in found.groups() and found[1] != found[2], told
    fake.answer(PROBES.right)
    fake.open().close()


def test_zeros(fake: Fake) -> None:
    fake.devices((GPU, "fast", 1))
    fake.answer(np.zeros_like(PROBES.right))
    told = refused(fake)
    assert "a kernel's arguments to the numbers of a buffer gives 0 where 20922 is right" in told


def test_kernels_that_do_nothing(built: Path, fake: Fake) -> None:
    fake.devices((GPU, "fast", 1))
    fake.answer(np.full_like(PROBES.right, BLANK))
    assert "gives nothing where 20922 is right" in refused(fake)


@pytest.mark.parametrize(("check", "near", "far"), [
    ("exp", 0.9e-5, 1.2e-5), ("functions", 0.9e-5, 1.2e-5), ("tile", 0.0, 1e-6),
])  # fmt: skip
def test_how_far_off_numbers_may_be(check: str, near: float, far: float, fake: Fake) -> None:
    """Relative to the number, to 1 for functions whose results that matter are about that."""
    fake.devices((GPU, "fast", 1))
    for found, first in CHECKED:
        if found.name != check:
            continue
        right = found.right.view(np.float32)
        at = int(np.argmax(np.where(np.isfinite(right), np.abs(right), 0)))
        size = max(abs(float(right[at])), found.least)
        for off in (near, -near):
            words = PROBES.right.copy()
            words[first + at] = floats(right[at] + size * off)[0]
            fake.answer(words)
            fake.open().close()
        words[first + at] = floats(right[at] + size * far)[0]
        fake.answer(words)
        assert "is right" in refused(fake)


def test_any_nan_is_one(fake: Fake) -> None:
    fake.devices((GPU, "fast", 1))
    is_nan = np.flatnonzero(np.isnan(PROBES.right.view(np.float32)) & (PROBES.right == 0x7FC00000))
    assert len(is_nan) >= 2
    words = PROBES.right.copy()
    words[is_nan] = 0xFFC12345
    fake.answer(words)
    fake.open().close()
    words[is_nan[0]] = floats(np.inf)[0]
    fake.answer(words)
    assert "gives inf where nan is right" in refused(fake)


@pytest.mark.parametrize("defect", [d for d in DEFECTS if d.met and d.check],
                         ids=lambda d: d.drivers)  # fmt: skip
def test_a_known_defect_is_told_as_one(defect: Defect, fake: Fake) -> None:
    for met in defect.met:
        fake.driver.fake_driver(f"a {met.upper()}.x".encode(), b"OpenCL 3.0")
        fake.devices((GPU, "fast", 1))
        fake.answer(wrong_at(defect.check))
        told = refused(fake)
        assert f" is right, which is known: {defect.wrong} ({defect.source}); {REMEDY}" in told
        fake.answer(PROBES.right)
        fake.open().close()  # the check decides, not the name


def test_what_is_known_of_another_check_is_not_told(fake: Fake) -> None:
    fake.driver.fake_driver(QUALCOMM.encode(), SEVENTH.encode())
    fake.devices((GPU, "QUALCOMM Adreno(TM)", 1))
    fake.answer(wrong_at("ends"))
    assert "which is known" not in refused(fake)
    for check, source in (("tile", "llama.cpp PR 26476"), ("branches", "llama.cpp issue 29081")):
        fake.answer(wrong_at(check))
        told = refused(fake)
        assert f"({source}); {REMEDY}" in told and told.startswith(
            f"QUALCOMM Adreno(TM) (driver {QUALCOMM[:160]}) computes wrong: "
        )


@pytest.mark.parametrize("how", (1, 2), ids=("kernels", "programs"))
def test_a_driver_that_cannot_hold_several_kernels(
    how: int, fake: Fake, environment: Path
) -> None:
    """It says so, and gets a program for each; all are kept, and found again."""
    fake.devices((GPU, "fast", 1))
    fake.driver.fake_single(how)
    fake.work()
    kept = {file.name: file.stat().st_ino for file in environment.iterdir()}
    assert len(kept) == KERNELS + (how == 1)  # that of all was built, and its kernels were not
    fake.work()
    assert kept == {file.name: file.stat().st_ino for file in environment.iterdir()}
    assert fake.live == 0


def test_one_that_is_known_is_not_given_several(fake: Fake, environment: Path) -> None:
    fake.driver.fake_driver(QUALCOMM.encode(), SIXTH.encode())
    fake.devices((GPU, "QUALCOMM Adreno(TM)", 1))
    fake.driver.fake_single(1)
    fake.work()
    assert len(list(environment.iterdir())) == KERNELS and fake.live == 0


def test_one_that_cannot_hold_one_either(fake: Fake) -> None:
    fake.devices((GPU, "fast", 1))
    fake.driver.fake_single(3)
    assert refused(fake) == "fast makes no kernel of twice: out of host memory (OpenCL error -6)"


def test_another_error_is_no_reason_for_several_programs(fake: Fake, environment: Path) -> None:
    fake.devices((GPU, "fast", 1))
    fake.driver.fake_failure(b"clCreateKernel", 1, -5)
    assert "makes no kernel of remember: out of resources" in refused(fake)
    assert len(list(environment.iterdir())) == 1


# On a device that is there.


@pytest.mark.parametrize("vector", VECTORS)
def test_this_one_is_right(vector: int, device: None, fresh: Load, weights: Path) -> None:
    """By vectors of any width, and in a group of many."""
    probes = probes_of(vector, NEEDS, ["vf_gelu_tanh(vf_tanh(vf_softplus(vf_sigmoid(x))))"], 128)
    Opened(fresh(Tiny(vector=vector, probes=probes)), weights).close()


def test_programs_of_one_kernel_each(
    device: None, fresh: Load, weights: Path, environment: Path
) -> None:
    """Where the table says so: the same results, from programs that are kept by kernels."""
    row = replace(DEFECTS[0], met=("opencl",))  # which all have in their versions
    assert row.measure == APART
    for _ in range(2):
        model = Opened(fresh(Tiny(defects=(row,))), weights)
        for got, want in zip(model.run([3, 4, 5]), expected([3, 4, 5]), strict=True):
            assert np.array_equal(got, want)
        model.close()
        assert len(list(environment.iterdir())) == KERNELS


def altered(name: str) -> Probes:
    """All probes, of which the first check of a name expects something that is not right."""

    def other(check: Check) -> Check:
        right = check.right.copy()
        right[0] ^= 0x00400000 if check.right[0] != BLANK else 1
        return replace(check, right=right)

    def probe(p: Probe) -> Probe:
        names = [c.name for c in p.checks]
        if name not in names:
            return p
        i = names.index(name)
        return replace(p, checks=(*p.checks[:i], other(p.checks[i]), *p.checks[i + 1 :]))

    return replace(PROBES, kernels=tuple(map(probe, PROBES.kernels)))


@pytest.mark.parametrize("name", dict.fromkeys(c.name for c, _ in CHECKED))
def test_a_word_that_is_not_right(name: str, device: None, fresh: Load, weights: Path) -> None:
    """Which says that each check compares what the device wrote."""
    with pytest.raises(Failure, match=r"^11: .* computes wrong: .* is right.*; update the driver"):
        Opened(fresh(Tiny(probes=altered(name))), weights)


@pytest.mark.parametrize(("probe", "code", "other"), [
    ("probe_tile", "x3.s2", "x3.s1"),
    ("probe_tile", "for (int m = 3;", "for (int m = 2;"),
    ("probe_tile", "barrier(CLK_LOCAL_MEM_FENCE);", ""),
    ("probe_branches", "mine && key < high", "start == 0 && key < high"),
    ("probe_branches", "barrier(CLK_LOCAL_MEM_FENCE);", ""),
    ("probe_values", "VF - n, n)", "VF - n, n + 1)"),
    ("probe_group", "part, 8", "part, 7"),
    ("probe_group", "part, 7", "part, 0"),
])  # fmt: skip
def test_a_kernel_that_computes_something_else(
    probe: str, code: str, other: str, device: None, fresh: Load, weights: Path
) -> None:
    """What a compiler that is wrong may make of it."""
    assert any(code in p.body for p in PROBES.kernels if p.name == probe)
    kernels = tuple(replace(p, body=p.body.replace(code, other)) if p.name == probe else p
                    for p in PROBES.kernels)  # fmt: skip
    with pytest.raises(Failure, match=r"^11: .* computes wrong: "):
        Opened(fresh(Tiny(probes=replace(PROBES, kernels=kernels))), weights)
