"""Libraries of several instruction sets: the processor decides which of them runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from canao.artifact.directory import Artifact
from canao.build import Unit, build_program, library_files
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.compiler.stages import Stages
from canao.device.base import MeasureConfig, Timing
from canao.device.bench import local_device
from canao.device.certify import CERTIFIED_SAMPLES, judge
from canao.device.null import ScriptedTimer
from canao.errors import InputError
from canao.inference.compiled_model import CompiledModel
from canao.lower.scheduling import default_plans
from canao.schedule.weights import file_parts
from canao.target import Target, get_target
from tests.compiler.models import classifier, reference
from tests.compiler.test_families import QUICK
from tests.oracle import ONE_LEVEL, SHALLOW, assert_close

pytestmark = pytest.mark.as_shipped

X86, ARM = get_target("x86_64-linux"), get_target("aarch64-linux")
BOTH = X86.with_isa("scalar,avx2")
TEXTS = [(np.arange(1, n + 1) % 99, np.sort(np.arange(n) % 2)) for n in (1, 5, 17)]
# Prints which instruction set runs, then all outputs of each text: length, ids, type ids.
MAIN = """
#include <string.h>
static int told(int status) { printf("isa %s\\n", canao_isa()); return status; }
#define canao_open(...) told(canao_open(__VA_ARGS__))
"""


def staged(target: Target, precision: str = "float32") -> Stages:
    graph = load_model(classifier("odd", layers=1))[1]
    return compile_graph(graph, target, planner=default_plans, precision=precision)


def outputs(
    stages: Stages, folder: Path, emulator: str, cpu: str, *flags: str
) -> tuple[str, list[list[str]]]:
    """The instruction set that runs on an emulated processor, and the outputs of each text."""
    text = Path(__file__).with_name("harness.c").read_text(encoding="utf-8")
    main = text.replace("int main", f"{MAIN}\nint main", 1)
    units: dict[str, str | Unit] = {**library_files([level.source for level in stages.levels])}
    program = build_program(units | {"main.c": main}, X86.least, None, flags)
    weights = folder / "weights.bin"
    weights.write_bytes(b"".join(file_parts(stages.program.graph, stages.schedule.weights)))
    lines = [" ".join(map(str, [len(a), *a, *b])) for a, b in TEXTS]
    done = subprocess.run([emulator, "-cpu", cpu, program, weights, "2"], input="\n".join(lines),
                          capture_output=True, text=True, check=True)  # fmt: skip
    isa, *rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == len(TEXTS) and all(row.pop(0) == "0" for row in rows)
    return isa[1], rows


@pytest.mark.cross
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_processor_decides(precision: str, qemu_x86: str, tmp_path: Path) -> None:
    """Each level computes to the bit what a library of it alone does, and near the other's."""
    found, flags = {}, () if precision == "float32" else QUICK
    for cpu, isa in (("Nehalem", "scalar"), ("max", "avx2")):
        found[isa] = outputs(staged(BOTH, precision), tmp_path, qemu_x86, cpu, *flags)
        assert found[isa][0] == isa
        alone = outputs(staged(X86.with_isa(isa), precision), tmp_path, qemu_x86, cpu, *flags)
        assert found[isa] == alone
    for text, *rows in zip(TEXTS, found["scalar"][1], found["avx2"][1], strict=True):
        scalar, avx2 = (np.array(row, float) for row in rows)
        # In int8 a rounding may move a whole number by one.
        assert_close(scalar, avx2, tolerance=SHALLOW if precision == "float32" else ONE_LEVEL)
        if precision == "float32":
            want = reference(classifier("odd", layers=1), *text)
            assert_close(avx2, np.concatenate([v.ravel() for v in want]))


@pytest.mark.cross
def test_the_widest_that_the_processor_has_runs(qemu_x86: str, tmp_path: Path) -> None:
    """Emulated processors have no AVX-512; what the least level lacks is what is told."""
    three = staged(X86.with_isa("avx512,scalar,avx2"))
    assert outputs(three, tmp_path, qemu_x86, "max", *QUICK)[0] == "avx2"
    assert outputs(three, tmp_path, qemu_x86, "Nehalem", *QUICK)[0] == "scalar"
    with pytest.raises(subprocess.CalledProcessError) as error:
        outputs(staged(X86.with_isa("avx2,avx512")), tmp_path, qemu_x86, "Nehalem", *QUICK)
    assert error.value.returncode == 20 and "kernels for avx2: it lacks movbe" in error.value.stderr


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_one_weights_file_has_what_each_level_reads(precision: str) -> None:
    both = staged(BOTH, precision)
    alone = [staged(X86.with_isa(isa), precision) for isa in ("scalar", "avx2")]
    layouts = [level.schedule.weights for level in both.levels]
    assert layouts[0] == layouts[1]
    united = {(s.value, s.storage): s.size for s in layouts[0].sections}
    parts = [{(s.value, s.storage): s.size for s in a.schedule.weights.sections} for a in alone]
    assert united == parts[0] | parts[1]
    # What both read alike is there once: biases and tables, and not the products' weights.
    shared = parts[0].keys() & parts[1].keys()
    assert shared and shared != united.keys() and len(layouts[0].sections) == len(united)
    written = b"".join(file_parts(both.program.graph, layouts[0]))
    assert len(written) == layouts[0].file_size
    for level, single in zip(both.levels, alone, strict=True):
        assert level.schedule.memory == single.schedule.memory
        assert level.schedule.scratch == single.schedule.scratch
        assert level.plans == single.plans


def test_levels_of_a_target() -> None:
    target = X86.with_isa(" avx512, scalar")
    assert (target.isa, target.cpu) == ("avx512", "x86_64_v4")
    assert target.levels == (X86.with_isa("scalar"), X86.with_isa("avx512"))
    assert target.with_isa("avx2").levels == (X86.with_isa("avx2"),) == X86.levels
    # Where the processor is the target's own, it is that of each instruction set without more.
    neon, dotprod = ARM.with_isa("neon,neon_dotprod").levels
    assert neon.cpu == ARM.cpu and not neon.features
    assert dotprod == ARM.with_isa("neon_dotprod") and "asimddp" in dotprod.features
    for given, said in (("avx2,avx2", "'avx2' is named twice"), ("avx2,", "'' is not one of"),
                        ("scalar,neon", "'neon' is not one of scalar, avx2, ")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            X86.with_isa(given)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """For the processor here and, as one that it lacks, the least."""
    host = get_target()
    both = host.with_isa(f"scalar,{host.isa}")
    return compile_model(classifier("small"), tmp_path_factory.mktemp("both") / "out", target=both)


def test_the_artifact_says_which_there_are_and_which_runs(artifact: Artifact) -> None:
    host = get_target()
    assert artifact.isas == ("scalar", host.isa)
    assert artifact.manifest["target"]["isa"] == host.isa
    (level,) = artifact.manifest["narrower"]
    assert level["isa"] == "scalar" and len(level["kernels"]) == artifact.kernels
    assert len(artifact.all_kernels) == 2 * artifact.kernels
    assert all(k["name"].count("scalar") for k in level["kernels"] if k["name"] != "alias")
    with CompiledModel(artifact) as compiled:
        assert compiled.isa == host.isa
        got = compiled(TEXTS[1][0], TEXTS[1][1])
    assert_close(got, reference(classifier("small"), *TEXTS[1])[0][0])


def test_figures_say_which_ran(artifact: Artifact) -> None:
    config = MeasureConfig(length=4, samples=CERTIFIED_SAMPLES, warmup=0)
    device = local_device()
    device.timer = ScriptedTimer()  # half a minute passes at once
    timing = device.measure(artifact, config)
    assert isinstance(timing, Timing) and timing.environment["library_isa"] == get_target().isa
    certificate = judge(artifact, device, 1e3, config)
    assert certificate.to_dict()["environment"]["library_isa"] == get_target().isa
    known = {kernel["name"] for kernel in artifact.all_kernels}
    assert {name for name, _ in device.profile(artifact, config)} <= known
