"""Machines read from texts, as PROBE prints them, and what follows from their facts."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import canao
from canao.errors import InputError
from canao.machine import PROBE, Caches, Cluster, Machine, local_machine, read_machine
from canao.target import get_target, target_of

TEXTS = Path(__file__).parent / "machines"
SERVER = (TEXTS / "epyc_vm.txt").read_text()
BOARD = (TEXTS / "rk3588_board.txt").read_text()
PHONE = (TEXTS / "pixel6_phone.txt").read_text()
LITTLE = Cluster(
    (0, 1, 2, 3), "0x41", "0xd05", "r2p0", 530, 1800, Caches(32 << 10, 128 << 10, 3 << 20)
)
BIG = Cluster(
    (4, 5, 6, 7), "0x41", "0xd0b", "r4p0", 1024, 2400, Caches(64 << 10, 512 << 10, 3 << 20)
)


def test_server() -> None:
    machine = read_machine(SERVER)
    assert (machine.cpu, machine.arch, machine.system) == ("AMD EPYC", "x86_64", "Linux")
    assert machine.release == "6.18.44-fc-v782"
    assert machine.memory_bytes == 24683656 << 10
    assert {"avx2", "fma", "f16c"} <= set(machine.features) and "smep" not in machine.features
    caches = Caches(32 << 10, 512 << 10, 32 << 20)
    assert machine.clusters == (Cluster((0, 1), "25", "1", "1", 1024, 0, caches),)
    assert machine.cores == (0, 1) and machine.caches == caches


def test_big_and_little_cores() -> None:
    """Named by their parts, the fastest first; cores clocked 2 % apart are of one cluster."""
    machine = read_machine(BOARD)
    assert machine.cpu == "Cortex-A76 + Cortex-A55"
    assert machine.clusters == (BIG, LITTLE)
    assert machine.cores == (4, 5, 6, 7, 0, 1, 2, 3) and machine.core_count == 8
    assert machine.caches == BIG.caches
    assert {"asimd", "asimddp", "fphp"} <= set(machine.features)


def test_a_phone() -> None:
    """Android calls itself Linux, and names the phone and its chip; the parts name the cores."""
    machine = read_machine(PHONE)
    assert machine.cpu == "Pixel 6, GS101: Cortex-X1 + Cortex-A76 + Cortex-A55"
    assert (machine.system, machine.arch) == ("Android", "aarch64")
    assert machine.release.startswith("13 (API 33), 5.10.")
    assert [(c.cores, c.capacity, c.mhz) for c in machine.clusters] == [
        ((6, 7), 1024, 2802), ((4, 5), 498, 2253), ((0, 1, 2, 3), 160, 1803)
    ]  # fmt: skip
    assert machine.cores == (6, 7, 4, 5, 0, 1, 2, 3) and machine.stamp.startswith("Pixel 6, GS101")


def test_a_phone_that_tells_less() -> None:
    """Properties that a version of Android has not are empty."""
    lines = [line for line in PHONE.splitlines() if not line.startswith("getprop:ro.soc")]
    assert read_machine("\n".join(lines)).cpu.startswith("Pixel 6, gs101: Cortex-X1")
    kept = [line for line in lines if "getprop" not in line or ".sdk" in line]
    bare = read_machine("\n".join(kept))
    assert bare.system == "Android" and bare.cpu == "Cortex-X1 + Cortex-A76 + Cortex-A55"


def test_stamps_stay() -> None:
    """What was measured on a machine is found by its stamp, from one version to the next."""
    assert read_machine(SERVER).stamp == "AMD EPYC aadf31ef1fe394b2"
    assert read_machine(BOARD).stamp == "Cortex-A76 + Cortex-A55 1c82a34bd7758a57"


def test_cores_that_the_process_may_not_use() -> None:
    little = read_machine(BOARD.replace("list:\t0-7", "list:\t0,2-3"))
    assert little.cores == (0, 2, 3) and little.core_count == 8
    assert little.caches == LITTLE.caches
    assert little.stamp != read_machine(BOARD).stamp, "no figure of a big core is one of a small"
    some = read_machine(BOARD.replace("list:\t0-7", "list:\t3-6"))
    assert some.cores == (4, 5, 6, 3) and some.stamp == read_machine(BOARD).stamp


@pytest.mark.parametrize("text", ["uname:Plan9 4 mips", "uname:Linux x86_64\nnonsense\n\n:\n::"])
def test_a_machine_that_tells_nothing_of_itself(text: str) -> None:
    machine = read_machine(text)
    assert machine.cpu == machine.arch and machine.clusters == machine.cores == ()
    assert machine.caches == Caches() and machine.stamp


def test_garbage_in_every_file() -> None:
    """Facts that cannot be read are left out, not guessed."""
    lines = []
    for line in BOARD.splitlines()[1:]:
        path, _, content = line.partition(":")
        lines.append(f"{path}:{content.replace(':', '=').replace('-', '?')}x")
    machine = read_machine("\n".join(["uname:Linux 6 aarch64", *lines]))
    assert machine.features == machine.cores == () and machine.memory_bytes == 0


@pytest.mark.parametrize("text", ["", "sh: uname: not found", "uname:", "uname:Linux"])
def test_no_machine_at_all(text: str) -> None:
    with pytest.raises(InputError, match="needs a shell with uname and grep"):
        read_machine(text)


def test_old_kernels_tell_features_once() -> None:
    text = "\n".join([
        "uname:Linux 3.10 aarch64",
        *(f"/proc/cpuinfo:processor\t: {n}" for n in (0, 1)),
        "/proc/cpuinfo:", "/proc/cpuinfo:Features\t: fp asimd",
        "/proc/cpuinfo:CPU implementer\t: 0x41", "/proc/cpuinfo:CPU part\t: 0xd03",
        "/proc/cpuinfo:CPU variant\t: 0x0",
        "/proc/cpuinfo:CPU revision\t: 4",
    ])  # fmt: skip
    machine = read_machine(text)
    assert machine.clusters == (Cluster((0, 1), "0x41", "0xd03", "r0p4"),)
    assert machine.cpu == "Cortex-A53" and machine.features == ("asimd", "fp")


@pytest.mark.parametrize(
    ("implementer", "part", "name"),
    [("0x41", "0xfff", "ARM 0x41 part 0xfff"), ("0x61", "0x022", "implementer 0x61 part 0x022")],
)
def test_parts_without_a_name(implementer: str, part: str, name: str) -> None:
    text = BOARD.replace("0x41", implementer).replace("0xd05", part).replace("0xd0b", part)
    assert read_machine(text).cpu == name


def test_the_stamp_holds_what_times_depend_on() -> None:
    machine = read_machine(BOARD)
    slower = replace(BIG, mhz=1200)
    for change in (
        {"cpu": "other"}, {"features": ("asimd",)}, {"clusters": (slower, LITTLE)},
        {"clusters": (BIG,)}, {"clusters": (replace(BIG, caches=Caches()), LITTLE)},
    ):  # fmt: skip
        assert replace(machine, **change).stamp != machine.stamp, change
    for change in ({"release": "6.1"}, {"memory_bytes": 1}, {"allowed": (4, 1)}):
        assert replace(machine, **change).stamp == machine.stamp, change
    assert machine.stamp.startswith("Cortex-A76 + Cortex-A55 ")


def test_this_machine_through_a_shell_and_without_one() -> None:
    printed = subprocess.run(PROBE, capture_output=True, text=True, check=True).stdout
    machine = local_machine()
    assert read_machine(printed) == machine
    if hasattr(os, "sched_getaffinity"):
        assert set(machine.cores) == os.sched_getaffinity(0)
    assert machine.core_count == os.cpu_count()


def test_facts_are_read_in_one_module() -> None:
    """And in another what changes from one minute to the next."""
    package = Path(canao.__file__).parent
    asks = re.compile(r"/proc/cpuinfo|/sys/devices|os\.sched_getaffinity|cpu_count|\bplatform\.")
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py") if asks.search(path.read_text(encoding="utf-8"))
    }  # fmt: skip
    assert found == {"machine.py", "device/state.py"}


@pytest.mark.parametrize(
    ("flags", "isa"),
    [
        ("avx2 fma avx512f avx512bw avx512cd avx512dq avx512vl", "avx512"),
        ("avx2 fma f16c avx512f", "avx2"),
        ("avx2 fma", "scalar"),
        ("sse2", "scalar"),
    ],
)
def test_target_of_x86(flags: str, isa: str) -> None:
    machine = replace(read_machine(SERVER), features=tuple(flags.split()))
    preset = get_target("x86_64-linux").with_isa(isa)
    want = replace(preset, name="host", l2_bytes=512 << 10, machine=machine.stamp)
    assert target_of(machine) == want and want.machine != preset.machine


def test_target_of_arm() -> None:
    arm = get_target("aarch64-linux")
    board = read_machine(BOARD)
    want = replace(arm, name="host", cpu="", l2_bytes=512 << 10, machine=board.stamp,
                   extensions=("neon_dotprod",))  # fmt: skip
    assert target_of(board) == want
    little = replace(board, allowed=(0, 1))
    assert target_of(little).l2_bytes == 128 << 10
    assert target_of(Machine(arch="aarch64", system="Linux")).l2_bytes == 512 << 10


def test_target_of_a_phone() -> None:
    """Libraries for it are Android's; all else follows from the processor as ever."""
    phone = replace(read_machine(BOARD), system="Android")
    target = target_of(phone)
    assert target.android and target.triple == get_target("aarch64-android").triple
    assert target == replace(target_of(read_machine(BOARD)), triple=target.triple,
                             machine=phone.stamp)  # fmt: skip


def test_no_target() -> None:
    with pytest.raises(InputError, match=r"\(Darwin arm64\) cannot run .* --target x86_64-linux"):
        target_of(Machine(arch="arm64", system="Darwin"))
    with pytest.raises(InputError, match=r"\(Android armv8l\) cannot run"):
        target_of(replace(read_machine(PHONE), arch="armv8l"))


def test_this_target() -> None:
    assert get_target("host") == target_of(local_machine())
