"""A library on a processor without what its kernels need says so; it is never killed for it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from canao.build import (
    build_library,
    build_program,
    get_toolchain,
    library_files,
    runtime_files,
)
from canao.compiler.stages import Stages
from canao.device.bench import bench_program
from canao.isa.features import FEATURES
from canao.schedule.weights import file_parts
from canao.target import Target, get_target
from tests.compiler import programs
from tests.compiler.models import classifier, reference
from tests.oracle import assert_close

pytestmark = pytest.mark.as_shipped

X86 = get_target("x86_64-linux")
# For emulators that have no libraries of that machine, programs have musl's in them.
ARM = replace(get_target("aarch64-linux"), triple="aarch64-linux-musl")
A76 = replace(ARM, cpu="cortex_a76")
PHONE = get_target("aarch64-android")
CPU = 10  # CANAO_CPU
REMEDY = "; compile the model with another --isa (scalar runs anywhere), or with --target host here"
# Instructions that only some processors have: of AVX and on, and of BMI, by their mnemonics; and
# atomics, dot products and half floats of ARM.
BEYOND = {
    "x86_64": r"v[a-z0-9]+|mulx|[sr][ahol]?rx|sh[lr]x|andn|bls\w+|bextr|[lt]zcnt|movbe|pdep|pext"
              r"|tile\w+|(ld|st)tilecfg|tdp\w+",
    "aarch64": r"(ld|st)(add|clr|eor|set|[su]max|[su]min)\w*|swp\w*|casp?[abhl]*|[su]dot|sqrdml\w*"
               r"|ldapr\w*|bf\w*dot|[su]mmla",
}  # fmt: skip
EMULATED = {"x86_64": "qemu_x86", "aarch64": "qemu"}


def harness(target: Target, folder: Path) -> tuple[Stages, list[str]]:
    """A small classifier with a main function for all processors; the command, without threads."""
    stages = programs.staged(classifier("small"), target, True)
    flags = ("-static",) if target.arch == "aarch64" else ()
    program = build_program(programs.sources(stages.source), target.least, None, flags)
    weights = folder / "weights.bin"
    weights.write_bytes(b"".join(file_parts(stages.program.graph, stages.schedule.weights)))
    return stages, [str(program), str(weights), "1"]


def run(command: Sequence[str], text: str) -> tuple[int, str, list[str]]:
    """A program's exit status, output, and what it says on stderr beside its emulator."""
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if "TCG doesn't support" not in line]
    return done.returncode, done.stdout, said


def lacking(isa: str, features: Sequence[str]) -> str:
    names = ", ".join(features)
    return f"this processor cannot run the kernels for {isa}: it lacks {names}{REMEDY}"


@pytest.mark.cross
@pytest.mark.parametrize(
    ("target", "cpu", "without"),
    [
        (X86.with_isa("scalar"), "Nehalem", ()),
        (X86, "Haswell", ()),
        (X86, "Nehalem", ("movbe", "xsave", "fma", "avx", "f16c", "abm", "bmi1", "bmi2", "avx2")),
        (X86, "SandyBridge", ("movbe", "fma", "f16c", "abm", "bmi1", "bmi2", "avx2")),
        (X86, "Haswell,-bmi2", ("bmi2",)),
        (X86, "Haswell,-abm", ("abm",)),
        # It emulates all of AVX2 and nothing of AVX-512.
        (X86.with_isa("avx512"), "max",
         ("avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl")),
        (ARM, "cortex-a53", ()),
        (A76, "cortex-a76", ()),
        (A76, "max", ()),
        (A76, "cortex-a53", ("atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "asimddp")),
        (A76, "cortex-a72", ("atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "asimddp")),
    ],
    ids=lambda x: x.isa if isinstance(x, Target) else x if isinstance(x, str) else str(len(x)),
)  # fmt: skip
def test_opening_on_a_processor(
    target: Target, cpu: str, without: Sequence[str], tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    emulator = request.getfixturevalue(EMULATED[target.arch])
    _, command = harness(target, tmp_path)
    code, shown, said = run([emulator, "-cpu", cpu, *command], "3 1 2 3 0 0 1")
    if without:
        assert (code, said) == (10 + CPU, [lacking(target.isa, without)])
        return
    assert code == 0 and not said
    status, *values = shown.split()
    ids = np.array([1, 2, 3]), np.array([0, 0, 1])
    want = np.concatenate([v.ravel() for v in reference(classifier("small"), *ids)])
    assert_close(np.array(values, float), want)
    assert status == "0"


@pytest.mark.cross
def test_the_benchmark_says_it_too(qemu_x86: str, tmp_path: Path) -> None:
    stages, (_, weights, _) = harness(X86, tmp_path)
    library = build_library([stages.source])
    command = [bench_program(X86), library, weights, "8", "1", "-", "0", "1", "0", "0", "time"]
    for cpu in ("Nehalem", "max"):
        done = subprocess.run([qemu_x86, "-cpu", cpu, *command], capture_output=True, text=True)
        if cpu == "max":
            assert done.returncode == 0 and "\nisa avx2\n" in done.stdout
        else:
            assert done.returncode == 1 and not done.stdout
            assert re.fullmatch(rf"{library}: .* it lacks .*avx2; compile .*\n", done.stderr)


# Prints what cpu.c finds out about each feature, as `name has enabled`.
ASKING = """
enum { COUNT = sizeof features / sizeof *features };
const struct canao_level canao_levels[] = {{"all", 0, features, COUNT}};
const int canao_level_count = 1;
int main(void)
{
    for (int i = 0; i < canao_levels[0].feature_count; i++) {
        const struct answer a = ask(&features[i]);
        printf("%s %d %d\\n", features[i].name, a.has, a.enabled);
    }
    printf("%s\\n", canao_cpu_level() ? "level" : canao_cpu_lacks());
    return 0;
}
"""


def asked(target: Target, command: Sequence[str], **more: str) -> tuple[dict[str, str], str]:
    """What a program that runs by `command` says of each feature, and of them all. `more` are
    features of the test, as C."""
    rows = [f'{{"{n}", {f.source:#x}, {f.part}, {f.word}, {f.bit}, {f.state:#x}}}'
            for n, f in FEATURES[target.arch].items()] + list(more.values())  # fmt: skip
    table = f"static const struct canao_feature features[] = {{{', '.join(rows)}}};"
    files = runtime_files("canao_runtime.h", "cpu.c")
    # cpu.c's own functions are called, so its text is in the program's.
    units = {"main.c": f"{files.pop('cpu.c')}\n{table}\n{ASKING}", **files}
    flags = ("-static",) if target.arch == "aarch64" else ()
    program = build_program(units, target.least, None, flags)
    done = subprocess.run([*command, program], capture_output=True, text=True, check=True)
    *lines, all_of_them = done.stdout.splitlines()
    return dict(line.split(" ", 1) for line in lines), all_of_them


def test_what_this_processor_has_is_what_the_kernel_says() -> None:
    host = get_target()
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    assert flags is not None
    told, _ = asked(host, ())
    assert {n for n, a in told.items() if a == "1 1"} == set(flags[1].split()) & told.keys()


@pytest.mark.cross
def test_what_an_emulated_arm_has(qemu: str) -> None:
    a53 = {"fp", "asimd", "aes", "pmull", "sha1", "sha2", "crc32"}
    a76 = a53 | {"atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "asimddp"}
    for cpu, has in (("cortex-a53", a53), ("cortex-a76", a76)):
        told, _ = asked(ARM, (qemu, "-cpu", cpu))
        assert {n for n, a in told.items() if a == "1 1"} == has
    assert asked(ARM, (qemu, "-cpu", "max"))[0]["i8mm"] == "1 1"


def test_what_the_system_does_not_save_is_not_used() -> None:
    """AVX is of no use where the system loses its registers, though the processor has it."""
    if get_target().arch != "x86_64":
        pytest.skip("only x86 has registers that a system may not save")
    told, said = asked(X86, (), sse2='{"sse2", 1, 0, 3, 26, UINT64_C(1) << 62}')
    assert told["sse2"] == "1 0"
    assert "sse2 (the system has it switched off)" in said and said.endswith(REMEDY)


def code(library: Path, arch: str) -> Iterator[tuple[str, str]]:
    """The instructions of a file: the function that each is in, and its mnemonic."""
    tool = shutil.which("llvm-objdump") or (shutil.which("objdump") if arch == "x86_64" else None)
    if tool is None:
        pytest.skip("no objdump for this architecture")
    every = ["--mattr=+v8.6a,+lse,+rcpc"] if arch == "aarch64" else []
    command = [tool, "-d", "--no-show-raw-insn", *every, str(library)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    function = ""
    for line in shown.splitlines():
        head = re.match(r"[0-9a-f]+ <(.*)>:", line)
        function = head[1] if head else function
        found = re.match(r"\s+[0-9a-f]+:\s+(?:lock\s+|rep\w*\s+)?(\S+)", line)
        if found:
            yield function, found[1]


def functions(library: Path) -> dict[str, set[str]]:
    """The functions of each source file in a library, by its table of symbols."""
    tool = shutil.which("readelf") or shutil.which("llvm-readelf")
    if tool is None:
        pytest.skip("no readelf")
    shown = subprocess.run([tool, "-sW", library], capture_output=True, text=True, check=True)
    table = shown.stdout.partition(".symtab")[2]
    files: dict[str, set[str]] = {}
    file = ""
    for kind, bind, name in re.findall(r"^\s*\d+: \S+\s+\S+ (\S+)\s+(\S+)\s+\S+\s+\S+ (\S+)$",
                                       table, re.M):  # fmt: skip
        file = name if kind == "FILE" else file if bind == "LOCAL" else "(exported)"
        if kind in ("FUNC", "IFUNC"):
            files.setdefault(file, set()).add(name)
        assert kind not in ("IFUNC", "TLS"), name
    return files


@pytest.mark.parametrize("target", [X86, X86.with_isa("avx512"), ARM, A76, PHONE],
                         ids=lambda t: f"{t.isa}-{t.cpu[:11]}")  # fmt: skip
def test_nothing_but_kernels_is_for_some_processors_only(target: Target) -> None:
    source = programs.staged(classifier("small"), target, True).source
    library = build_library([source], None, ("-g",))
    kernels = functions(library)[f"program_{target.isa}.c"]
    assert len(kernels) > 10
    beyond = {f for f, word in code(library, target.arch)
              if re.fullmatch(BEYOND[target.arch], word)}  # fmt: skip
    assert beyond <= kernels
    if target.arch == "x86_64":
        assert beyond  # they were found at all
    if target in (ARM, PHONE):
        assert not beyond


@pytest.mark.parametrize("target", [X86, ARM, PHONE], ids=lambda t: f"{t.isa}-{t.library}")
def test_nothing_runs_when_a_library_is_loaded(target: Target) -> None:
    """No constructors, no code that chooses functions, nothing that a thread starts with. The names
    of its symbols and what debuggers read are not there."""
    library = build_library([programs.staged(classifier("small"), target, True).source])
    tool = shutil.which("readelf") or pytest.skip("no readelf")
    shown = subprocess.run([tool, "-SdW", library], capture_output=True, text=True, check=True)
    assert ".text" in shown.stdout and f"[{target.library}]" in shown.stdout
    for name in (".init_array", ".preinit_array", ".ctors", "(INIT)", "(INIT_ARRAY)", ".tdata",
                 ".tbss", ".symtab", ".debug"):  # fmt: skip
        assert name not in shown.stdout


def test_the_search_for_such_instructions_finds_them(tmp_path: Path) -> None:
    """What the test above says is absent is there when the runtime is compiled for more."""
    for target, file in ((A76, "thread_pool.c"), (X86, "cpu_engine.c")):
        source = programs.staged(classifier("small"), target, True).source
        for name, unit in library_files([source]).items():
            (tmp_path / name).write_text(unit.text)
        toolchain = get_toolchain()
        made = tmp_path / f"{file}.o"
        subprocess.run([*toolchain.command, *toolchain.machine_flags(target), "-O3", "-c", file,
                        "-o", made], cwd=tmp_path, check=True)  # fmt: skip
        words = [word for _, word in code(made, target.arch)]
        assert any(re.fullmatch(BEYOND[target.arch], word) for word in words)


def test_units_of_a_library_are_compiled_for_what_they_are() -> None:
    files = library_files([programs.staged(classifier("small"), X86, True).source])
    own = {name for name, unit in files.items() if unit.target != X86.least}
    assert own == {"program_avx2.c"} and len(files) == 10
