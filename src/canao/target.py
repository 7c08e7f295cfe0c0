"""Target: the kind of machine that code is generated for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from canao.defaults import TARGET
from canao.errors import InputError
from canao.isa.features import needed
from canao.isa.registry import ISAS, isas_of
from canao.isa.table import Isa
from canao.machine import ANDROID, Machine, local_machine

_USUAL_L2 = 512 * 1024  # bytes, where it is not told


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
    """

    name: str
    isa: str
    triple: str
    cpu: str = ""
    l2_bytes: int = _USUAL_L2
    machine: str = ""
    extensions: tuple[str, ...] = ()
    narrower: tuple[Target, ...] = ()

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
        return replace(self, isa="scalar", cpu=cpu, extensions=(), narrower=())

    @property
    def levels(self) -> tuple[Target, ...]:
        """A target for each instruction set of a library, the narrowest first."""
        return (*self.narrower, replace(self, narrower=()))

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

    def _alone(self, isa: Isa) -> Target:
        own = not isa.extends and self.arch != "x86_64"
        cpu = self.cpu if own else isa.cpu
        return replace(self, isa=isa.name, cpu=cpu, extensions=(), narrower=())

    def for_products(self, *names: str) -> Target:
        """The same, with the extension that is best for products: names of `Isa.tiles`."""
        better = [e for e in self.extensions if not ISAS[e].gains.isdisjoint(names)]
        return self.with_isa(better[-1]) if better else self


# glibc 2.28 is old enough for every Linux still supported, and has what the runtime calls.
_X86_LINUX = "x86_64-linux-gnu.2.28"
_ARM_LINUX = "aarch64-linux-gnu.2.28"

# Scheduled for a Cortex-A76, with instructions that all of ARMv8 has: clang makes sdot of plain
# loops where it may, and a Cortex-A72 has none.
_ARM_CPU = "cortex_a76-v8_1a-v8_2a-lse-rdm-crc-rcpc-dotprod-fullfp16-aes-sha2"

_CROSS = {
    "x86_64-linux": Target("x86_64-linux", "avx2", _X86_LINUX, ISAS["avx2"].cpu),
    "aarch64-linux": Target("aarch64-linux", "neon", _ARM_LINUX, _ARM_CPU, 64 * 1024),
}
NAMES = ("host", *_CROSS)
# What is compiled for a machine, by its system and architecture; and the instruction set that all
# such machines have. A machine is run on once `_CROSS` has a target with its triple.
_ARM_ANDROID = "aarch64-linux-android"
_OF_MACHINES = {
    ("Linux", "x86_64"): (_X86_LINUX, "scalar"),
    ("Linux", "amd64"): (_X86_LINUX, "scalar"),
    ("Linux", "aarch64"): (_ARM_LINUX, "neon"),
    ("Linux", "arm64"): (_ARM_LINUX, "neon"),
    (ANDROID, "aarch64"): (_ARM_ANDROID, "neon"),
}


def get_target(name: str = TARGET) -> Target:
    """The target called `name`; 'host' is the machine that this runs on."""
    if name == "host":
        return _host()
    if name not in _CROSS:
        raise InputError(f"target '{name}' is not one of {', '.join(NAMES)}")
    return _CROSS[name]


def target_of(machine: Machine) -> Target:
    """What code that runs on a machine is generated for, with all that its vector units can."""
    triple, least = _OF_MACHINES.get((machine.system, machine.arch), ("", ""))
    if triple in {target.triple for target in _CROSS.values()}:
        l2_bytes = machine.caches.l2 or _USUAL_L2
        target = Target("host", least, triple, l2_bytes=l2_bytes, machine=machine.stamp)
        return _widest(target, machine)
    raise InputError(
        f"this machine ({machine.system} {machine.arch}) cannot run compiled libraries yet; "
        f"cross-compile with --target {' or '.join(_CROSS)}"
    )


@cache
def _host() -> Target:
    return target_of(local_machine())


def _widest(target: Target, machine: Machine) -> Target:
    """With the widest instruction set that the machine has, and those that extend it."""
    found = [i for i in isas_of(target.triple) if set(machine.features).issuperset(i.features)]
    widest = [i for i in found if not i.extends][-1]
    extensions = tuple(i.name for i in found if _extends(i, widest.name))
    return replace(target.with_isa(widest.name), extensions=extensions)


def _extends(isa: Isa, name: str) -> bool:
    """Whether an instruction set extends another, or one that does."""
    return bool(isa.extends) and (isa.extends == name or _extends(ISAS[isa.extends], name))
