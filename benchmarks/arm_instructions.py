"""Instructions of an inference on 64-bit ARM, of CANAO and of its peers, counted under qemu-user.

    python benchmarks/arm_instructions.py --work DIR [--lengths 8,32,128] [--precision int8]
    python benchmarks/arm_instructions.py --table       writes arm_instructions.md

No ARM processor is needed, and nothing is timed: a plugin of qemu-user counts. What an inference
takes is the difference between a program with three of them and one with one, on one thread. Peers
are their wheels for aarch64, in a Python of Debian's; both are fetched into the folder of --work at
the first run, without a change to this machine's packages. Outputs of all are compared with
PyTorch's.

Needs the `qemu-user` of Debian 12 (`qemu-user-static` takes no plugins, and qemu from 9.0 on has
another interface for them), `libc6-arm64-cross`, `apt-get` and `dpkg`, and the environments of
`make bench-setup`, in which the peers' models are converted.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from pages import fill, table
from peers.catalog import ALL, OWN_LABELS, Contestant, own_label
from peers.interleave import distances
from peers.models import load_body, random_ids
from peers.progress import say
from peers.records import Record
from peers.results import Results, add_options
from peers.script import ended, recorded
from peers.store import Store
from speed_options import numbers

from canao.api import get_device
from canao.compiler.pipeline import compile_model
from canao.device.bench import bench_program
from canao.device.transports.qemu import library_root, version
from canao.errors import DeviceError
from canao.precision.quantize import FLOAT32, INT8
from canao.target import get_target

HERE = Path(__file__).resolve().parent
RECORDS, PAGE = HERE / "results" / "arm_instructions.jsonl", HERE / "arm_instructions.md"
KIND = "instructions"
IDENTITY = ("kind", "model", "length", "engine", "precision", "cpu")
MODEL, CPU = "minilm-l6", "cortex-a76"
# Peers, by what CANAO's libraries are in.
PEERS = {FLOAT32: ("litert", "ort"), INT8: ("litert-int8", "ort-int8")}
MANY = 3  # inferences of the longer program
AIM = 0.90  # of the better peer's instructions
TIMEOUT_S = 1800
NOTHING: Mapping[str, str] = MappingProxyType({})
PYTHON, WHEELS = "python3.11", "311"
# Debian's packages that hold a Python, and what the wheels are linked with.
PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6")
# onnxruntime reads it, and crashes where it is that of another kind of processor.
CPUINFO = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc \
dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""


@dataclass(frozen=True)
class Study:
    """What is run, and where records go."""

    results: Results
    work: Path
    precision: str
    store: Store

    @property
    def log(self) -> Path:
        return self.work / "instructions.log"

    def engines(self) -> tuple[str, ...]:
        return (own_label(self.precision), *PEERS[self.precision])


@cache
def plugin(work: Path) -> Path:
    """The plugin of qemu-user, compiled."""
    source, built = HERE / "peers" / "count_instructions.c", work / "count_instructions.so"
    # What is undefined in it, qemu has.
    _run([sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O2", "-Wl,-z,undefs",
          str(source), "-o", str(built)])  # fmt: skip
    return built


def counted(
    study: Study, command: Sequence[str], root: str, environment: Mapping[str, str] = NOTHING
) -> int:
    """All instructions of a program; DeviceError if it fails."""
    _run(["qemu-aarch64", "-cpu", CPU, "-L", root, "-plugin", str(plugin(study.work)),
          "-d", "plugin", "-D", str(study.log), *command], environment)  # fmt: skip
    found = re.search(r"^instructions (\d+)$", study.log.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise DeviceError("qemu-aarch64 ran no plugin; install Debian's qemu-user, as "
                          "qemu-user-static takes none")  # fmt: skip
    return int(found[1])


def own(study: Study, length: int) -> tuple[int, np.ndarray]:
    """Instructions of an inference of CANAO's library, and its output."""
    target = get_target("aarch64-linux", CPU)
    artifact = compile_model(load_body(MODEL, study.store.folder, "sdpa"),
                             study.work / f"arm-{study.precision}", target=target,
                             precision=study.precision)  # fmt: skip
    device = get_device(f"qemu:{CPU}")
    program = [str(bench_program(target)), str(artifact.library), str(artifact.weights),
               str(length), "1", "-", "0"]  # fmt: skip
    count = inference(study, lambda n: [*program, str(n), "0", "0", "time"], library_root())
    text = random_ids(length).numpy().astype(np.int32)
    ((output, *_),) = device.run_batch(artifact, [[text, np.zeros_like(text)]])
    return count, output


def peer(study: Study, engine: str, length: int) -> tuple[int, np.ndarray]:
    """Instructions of an inference of a peer, and its output."""
    root = system(study.work)
    contestant = Contestant(engine, ALL[engine], length)
    model = study.store.model_file(contestant)
    texts = study.store.texts(f"text-{length}", [random_ids(length).numpy()])
    out = study.work / "peer.npy"
    worker = ["-m", "peers.arm_worker", ALL[engine].module, str(model), str(texts)]
    # Nothing of this machine's Python, and the same hashes in each process.
    environment = {"PYTHONPATH": f"{root / 'wheels'}:{HERE}", "PYTHONHASHSEED": "0",
                   "HOME": "/nowhere", "OMP_NUM_THREADS": "1"}  # fmt: skip
    command = [str(root / "usr" / "bin" / PYTHON), *worker]
    counted(study, [*command, "1", str(out)], str(root), environment)  # which compiles Python
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    count = inference(study, lambda n: [*command, str(n), str(out)], str(root), environment)
    return count, np.load(out)


def inference(
    study: Study, program: Callable[[int], Sequence[str]], root: str,
    environment: Mapping[str, str] = NOTHING,
) -> int:  # fmt: skip
    """What a program takes more for one inference more; DeviceError if it takes nothing."""
    one, many = (counted(study, program(n), root, environment) for n in (1, MANY))
    if many <= one:
        raise DeviceError(f"{program(1)[0]}: {MANY} inferences take no more instructions than one")
    return (many - one) // (MANY - 1)


def system(work: Path) -> Path:
    """A folder with a Python for aarch64 and the peers' wheels, made at the first call."""
    wanted = "\n".join((*PACKAGES, CPUINFO, *pins()))
    root = work / f"aarch64-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
    if root.exists():
        return root
    say("fetching a Python for aarch64, and the peers' wheels")
    part = work / "aarch64-part"
    shutil.rmtree(part, ignore_errors=True)
    packages = debian_packages(work / "apt")
    part.mkdir(parents=True)
    for package in packages:
        _run(["dpkg", "-x", str(package), str(part)])
    (part / "proc").mkdir(exist_ok=True)
    (part / "proc" / "cpuinfo").write_text(CPUINFO, encoding="utf-8")
    tags = (*(f"manylinux_2_{minor}" for minor in (17, 27, 28, 34)), "manylinux2014")
    _run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
          "--target", str(part / "wheels"), "--only-binary=:all:", "--python-version", WHEELS,
          *(f"--platform={tag}_aarch64" for tag in tags), *pins()])  # fmt: skip
    os.replace(part, root)
    return root


def pins() -> tuple[str, ...]:
    """The peers' versions, those that are measured elsewhere."""
    texts = [(HERE / "peers" / f"{name}.txt").read_text("utf-8") for name in ("litert", "ort")]
    found = {line.split("==")[0]: line for text in texts for line in text.split()}
    return tuple(found[name] for name in ("ai-edge-litert", "onnxruntime", "numpy"))


def debian_packages(state: Path) -> list[Path]:
    """Packages for arm64 with what they need, fetched by apt with a state of its own: what is
    installed here does not count, and nothing is installed."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    own_state = {
        "APT::Architecture": "arm64", "APT::Architectures::": "arm64",
        "APT::Install-Recommends": "false", "Dir::State": str(state), "Dir::State::Lists":
        str(state / "lists"), "Dir::State::Status": str(state / "status"),
        "Dir::Cache": str(state / "cache"), "APT::Sandbox::User": "",
    }  # fmt: skip
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in own_state.items())]
    _run([*apt, "update"])
    _run([*apt, "install", "--yes", "--download-only", *PACKAGES])
    return sorted((state / "cache" / "archives").glob("*.deb"))


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a tool of the system, with this environment alone if one is given; DeviceError with its
    last words if it fails."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S,
            env=None if environment is None else {"PATH": os.environ["PATH"], **environment},
        )  # fmt: skip
    except FileNotFoundError:
        raise DeviceError(f"{name} is not installed; install it with apt-get") from None
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{name} did not end within {TIMEOUT_S} s") from None
    if done.returncode:
        raise DeviceError(f"{name} ended with {done.returncode}: {done.stderr.strip()[-300:]}")


def run(study: Study, length: int) -> None:
    """Record what is missing of a length."""
    texts = study.store.texts(f"text-{length}", [random_ids(length).numpy()])
    reference = study.store.case(texts)["hidden"]
    for engine in study.engines():
        identity = {"kind": KIND, "model": MODEL, "length": length, "engine": engine,
                    "precision": study.precision, "cpu": CPU}  # fmt: skip
        title = f"{engine} at {length} tokens"
        if study.results.holds(identity):
            say(f"{title}: recorded already")
            continue
        say(title)
        count, output = (own(study, length) if engine in OWN_LABELS
                         else peer(study, engine, length))  # fmt: skip
        difference, cosine = distances(output.reshape(reference.shape), reference)
        if not ALL[engine].right(difference, cosine):
            raise DeviceError(f"{title}: off by {difference:.1e} deviations, cosine {cosine:.5f}")
        study.results.put(title, identity | {
            "instructions": count, "difference": difference, "cosine": cosine, "qemu": version(),
            "versions": dict(pin.split("==") for pin in pins()),
        })  # fmt: skip


def write_page(records: Sequence[Record]) -> None:
    """A table for each precision."""
    fill(PAGE, {"float32": _table(records, FLOAT32), "int8": _table(records, INT8)})


def _table(records: Sequence[Record], precision: str) -> str:
    of = {(r["engine"], r["length"]): r for r in records if r["precision"] == precision}
    if not of:
        return "No records yet.\n"
    mine, lengths = own_label(precision), sorted({length for _, length in of})
    rows = [["millions of instructions", *(f"{n} tokens" for n in lengths)],
            ["---", *["--:"] * len(lengths)]]  # fmt: skip
    for engine in (mine, *PEERS[precision]):
        rows.append([engine, *(_millions(of.get((engine, n))) for n in lengths)])
    shares = []
    for n in lengths:
        found = [of[engine, n]["instructions"] for engine in PEERS[precision] if (engine, n) in of]
        if (mine, n) not in of or len(found) < len(PEERS[precision]):
            shares.append("-")
            continue
        share = of[mine, n]["instructions"] / min(found)
        shares.append(f"{share:.2f}, reached" if share <= AIM else f"**{share:.2f}, missed**")
    rows.append([f"{mine} of the better peer's (aim {AIM:.2f})", *shares])
    return table(rows)


def _millions(record: Record | None) -> str:
    return "-" if record is None else f"{record['instructions'] / 1e6:.1f}"


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--table", action="store_true", help="write arm_instructions.md and end")
    parser.add_argument("--work", type=Path, help="folder for models, conversions and wheels")
    parser.add_argument("--lengths", default="8,32,128")
    parser.add_argument("--precision", default=FLOAT32, choices=tuple(PEERS))
    add_options(parser, RECORDS)
    options = parser.parse_args(arguments)
    if not options.table and not options.work:
        parser.error("give --work, or --table")
    if options.table and options.draft:
        parser.error("no table is made of drafts")
    return options


def _run_all(options: argparse.Namespace, results: Results) -> None:
    work = options.work.resolve()
    study = Study(results, work, options.precision, Store.open(work, MODEL))
    for length in numbers(options.lengths, "lengths"):
        run(study, length)


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    return ended("arm_instructions", lambda: recorded(
        options, RECORDS, IDENTITY, write_page, lambda results: _run_all(options, results)
    ))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
