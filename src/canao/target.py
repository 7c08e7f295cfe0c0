"""Target: the kind of machine that code is generated for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from canao.defaults import TARGET
from canao.errors import InputError
from canao.isa.features import needed, scheduled
from canao.isa.processors import GENERIC, PROCESSORS, Processor, processor_names
from canao.isa.registry import ISAS, isas_of
from canao.isa.table import Isa
from canao.machine import ANDROID, Machine, local_machine

_USUAL_L2 = 512 * 1024  # bytes, where it is not told
CPU, OPENCL = "cpu", "opencl"
BACKENDS = (CPU, OPENCL)
# Floats in the vectors of OpenCL kernels: GPUs read four at a time, runtimes on CPUs do better with
# as many as their registers hold.
GPU_VECTOR, VECTORS = 4, (4, 8, 16)


@dataclass(frozen=True, slots=True)
class Target:
    """What the emitter and the toolchain must know of a machine: it follows from the Machine.

    name      what `--target` takes
    isa       instruction set, a row of isa/registry.py
    triple    target triple for the compiler driver
    cpu       value for -mcpu in that driver; '' leaves its default
    l2_bytes  data cache of one core, which bounds the cache blocks
    machine   stamp of the machine that it was made for, whose measurements it may use; '' for a
              kind of machine
    extensions  instruction sets that extend this one and that its processors have: a library
              whose products are better there is compiled for these
    narrower  targets of other instruction sets whose kernels a library has as well, for processors
              that lack `isa`; the narrowest first
    processor  the row of isa/processors.py that code is chosen for; None: none by name
    backend    which of BACKENDS makes the kernels
    vector     floats in the vectors of OpenCL kernels; 0 on a CPU
    allow_cpu  whether what no kernel of a GPU computes runs on the CPU beside it
    """

    name: str
    isa: str
    triple: str
    cpu: str = ""
    l2_bytes: int = _USUAL_L2
    machine: str = ""
    extensions: tuple[str, ...] = ()
    narrower: tuple[Target, ...] = ()
    processor: Processor | None = None
    backend: str = CPU
    vector: int = 0
    allow_cpu: bool = False

    @property
    def android(self) -> bool:
        """Whether libraries are for Android, whose C library is not Linux distributions'."""
        return system_of(self.triple)[1] == "android"

    @property
    def kernels_for(self) -> str:
        """What its kernels are for: an instruction set, or OpenCL."""
        return self.isa if self.backend == CPU else OPENCL

    @property
    def library(self) -> str:
        """File name of libraries. An Android package takes none whose name does not begin with
        'lib'."""
        return "libmodel.so" if self.android else "model.so"

    @property
    def entry(self) -> dict[str, Any]:
        """What a manifest says of it: what the widest kernels ask a processor for is `features`."""
        named = {"cpu": self.processor.clang} if self.processor else {}
        return {
            "name": self.name, "isa": self.kernels_for, "triple": self.triple, **named,
            "features": list(self.features),
        }  # fmt: skip

    @property
    def arch(self) -> str:
        """The first part of the triple."""
        return self.triple.partition("-")[0]

    @property
    def features(self) -> tuple[str, ...]:
        """What code for this target may use beyond what every processor of the triple has, by
        Linux' names. InputError if there is something that a library could not ask for."""
        try:
            return needed(ISAS[self.isa], self.cpu, self.arch)
        except KeyError as error:
            raise InputError(
                f"{self.isa}: '{error.args[0]}' has no row in canao/isa/features.py, so no library "
                "could ask a processor for it; add the row, or take another instruction set"
            ) from None

    @property
    def least(self) -> Target:
        """The least processor of the triple: what runs on it, runs on all of them."""
        cpu = "x86_64" if self.arch == "x86_64" else ""
        return replace(self, isa="scalar", cpu=cpu, extensions=(), narrower=(), processor=None)

    @property
    def levels(self) -> tuple[Target, ...]:
        """A target for each instruction set of a library, the narrowest first."""
        return (*self.narrower, replace(self, narrower=()))

    def on_opencl(self, vector: int = GPU_VECTOR, allow_cpu: bool = False) -> Target:
        """The same machine with kernels for its OpenCL device, whose vectors have so many floats.
        What calls them there runs on all processors of the triple, and so does what they do not
        compute, where that is allowed."""
        if vector not in VECTORS:
            known = ", ".join(map(str, VECTORS))
            raise InputError(f"vectors of {vector} floats are not among {known}")
        return replace(self.least, backend=OPENCL, vector=vector, allow_cpu=allow_cpu)

    @property
    def host(self) -> Target:
        """What the CPU beside a GPU runs: on all processors of the triple."""
        return replace(self.least, backend=CPU, vector=0, allow_cpu=False)

    def with_isa(self, isa: str) -> Target:
        """The same machine with another instruction set, for all that is compiled, or with
        several: 'avx2,avx512', of which a library takes the widest that it finds. The CPU follows
        where it is not the target's own."""
        known = {i.name: i for i in isas_of(self.triple)}
        names = [name.strip() for name in isa.split(",")]
        for name in names:
            if name not in known:
                raise InputError(f"ISA '{name}' is not one of {', '.join(known)} for {self.name}")
            if names.count(name) > 1:
                raise InputError(f"ISA '{name}' is named twice in '{isa}'; name each once")
        *narrower, widest = (self._alone(known[n]) for n in known if n in names)
        return replace(widest, narrower=tuple(narrower))

    def with_cpu(self, name: str) -> Target:
        """The same for a processor of isa/processors.py: code is ordered for it, and may use the
        instruction sets that it has."""
        self._require_named(name)
        isas = ",".join(level.isa for level in self.levels)
        if name == GENERIC:
            return replace(self, processor=None, cpu=_ARM_CPU, l2_bytes=_ARM_L2).with_isa(isas)
        processor = PROCESSORS[self.arch][name]
        chosen = replace(self, processor=processor, l2_bytes=processor.l2_bytes).with_isa(isas)
        return replace(chosen, extensions=_extensions(chosen, processor.features))

    def _require_named(self, name: str) -> None:
        """InputError unless `--cpu` may be that name for this target."""
        known = () if self.machine else processor_names(self.arch)
        if not known:
            isas = ", ".join(isa.name for isa in isas_of(self.triple))
            others = [t for t in _CROSS.values() if processor_names(t.arch)]
            raise InputError(
                f"cpu '{name}': {self.name} has none by name; choose instructions with --isa "
                f"({isas}), or one of {', '.join(processor_names(others[0].arch))} with --target "
                f"{' or '.join(t.name for t in others)}"
            )
        if name not in known:
            raise InputError(f"cpu '{name}' is not one of {', '.join(known)} for {self.name}")

    def _alone(self, isa: Isa) -> Target:
        return replace(self, isa=isa.name, cpu=self._cpu_for(isa), extensions=(), narrower=())

    def _cpu_for(self, isa: Isa) -> str:
        """What zig's clang calls the processor of an instruction set's kernels."""
        if self.processor:
            lacks = [f for f in isa.features if f not in self.processor.features]
            if lacks:
                raise InputError(
                    f"cpu '{self.processor.clang}' lacks {', '.join(lacks)}, which ISA "
                    f"'{isa.name}' needs; name another cpu, or leave it out"
                )
            return scheduled(self.processor, isa)
        own = not isa.extends and self.arch != "x86_64"
        return self.cpu if own else isa.cpu

    def for_products(self, *names: str) -> Target:
        """The same, with the extension that is best for products: names of `Isa.tiles`."""
        better = [e for e in self.extensions if not ISAS[e].gains.isdisjoint(names)]
        return self.with_isa(better[-1]) if better else self


def system_of(triple: str) -> tuple[str, str]:
    """The architecture and the system of a triple, as targets are called: aarch64, android."""
    arch, _, rest = triple.partition("-")
    return arch, "android" if "android" in rest else rest.partition("-")[0]


# glibc 2.28 is old enough for every Linux still supported, and has what the runtime calls.
_X86_LINUX = "x86_64-linux-gnu.2.28"
_ARM_LINUX = "aarch64-linux-gnu.2.28"
# The oldest Android that libraries are for: the first with 64 bits.
ANDROID_API = 21
_X86_ANDROID = f"x86_64-linux-android{ANDROID_API}"
_ARM_ANDROID = f"aarch64-linux-android{ANDROID_API}"

# Scheduled for a Cortex-A76, with instructions that all of ARMv8 has: clang makes sdot of plain
# loops where it may, and a Cortex-A72 has none.
_ARM_CPU = scheduled(PROCESSORS["aarch64"]["cortex-a76"], ISAS["neon"])
_ARM_L2 = 64 * 1024

_CROSS = {
    target.name: target
    for target in (
        Target("x86_64-linux", "avx2", _X86_LINUX, ISAS["avx2"].cpu),
        Target("aarch64-linux", "neon", _ARM_LINUX, _ARM_CPU, _ARM_L2),
        Target("aarch64-android", "neon", _ARM_ANDROID, _ARM_CPU, _ARM_L2),
        Target("x86_64-android", "avx2", _X86_ANDROID, ISAS["avx2"].cpu),
    )
}
NAMES = ("host", *_CROSS)


def get_target(name: str = TARGET, cpu: str | None = None) -> Target:
    """The target called `name`; 'host' is the machine that this runs on. `cpu` is the processor
    that libraries are for, a name of isa/processors.py; without, they run on all of the target."""
    if name not in NAMES:
        raise InputError(f"target '{name}' is not one of {', '.join(NAMES)}")
    target = _host() if name == "host" else _CROSS[name]
    return target if cpu is None else target.with_cpu(cpu)


# What a machine tells of its system and processor -> triple.
_TRIPLES = {
    ("Linux", "x86_64"): _X86_LINUX, ("Linux", "aarch64"): _ARM_LINUX,
    (ANDROID, "x86_64"): _X86_ANDROID, (ANDROID, "aarch64"): _ARM_ANDROID,
}  # fmt: skip
_ARCHS = {"amd64": "x86_64", "arm64": "aarch64"}


def target_of(machine: Machine) -> Target:
    """What code that runs on a machine is generated for, with all that its vector units can."""
    triple = _TRIPLES.get((machine.system, _ARCHS.get(machine.arch, machine.arch)))
    if triple is None:
        raise InputError(
            f"this machine ({machine.system} {machine.arch}) cannot run compiled libraries yet; "
            f"cross-compile with --target {' or '.join(_CROSS)}"
        )
    isa = "scalar" if triple.startswith("x86_64") else "neon"
    l2_bytes = machine.caches.l2 or _USUAL_L2
    return _widest(Target("host", isa, triple, l2_bytes=l2_bytes, machine=machine.stamp), machine)


@cache
def _host() -> Target:
    return target_of(local_machine())


def _widest(target: Target, machine: Machine) -> Target:
    """With the widest instruction set that the machine has, and those that extend it."""
    found = [i for i in isas_of(target.triple) if set(machine.features).issuperset(i.features)]
    widest = target.with_isa([i for i in found if not i.extends][-1].name)
    return replace(widest, extensions=_extensions(widest, machine.features))


def _extensions(target: Target, features: Collection[str]) -> tuple[str, ...]:
    """The instruction sets that extend a target's on a processor with these features."""
    found = [i for i in isas_of(target.triple) if set(features).issuperset(i.features)]
    return tuple(i.name for i in found if _extends(i, target.isa))


def _extends(isa: Isa, name: str) -> bool:
    """Whether an instruction set extends another, or one that does."""
    return bool(isa.extends) and (isa.extends == name or _extends(ISAS[isa.extends], name))
