"""Machine: what is known of the machine that libraries run on, and the one place that reads it.

Facts travel as text, one line of a file each: `path:line`. `PROBE` is the shell command that prints
them on any Linux or Android, here or at the other end of a cable; `read_machine` makes a Machine of
them.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from glob import glob
from pathlib import Path

from canao.errors import InputError

_CPU = "/sys/devices/system/cpu"
_SOURCES = (
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/thread-self/status",
    f"{_CPU}/online",
    f"{_CPU}/cpu[0-9]*/cpu_capacity",
    f"{_CPU}/cpu[0-9]*/cpufreq/cpuinfo_max_freq",
    *(f"{_CPU}/cpu[0-9]*/cache/index*/{name}" for name in ("level", "type", "size")),
)
# What Android tells beside: it calls itself Linux, and chips and phones have names in no file.
_MODEL, _CHIPS = "ro.product.model", ("ro.soc.model", "ro.board.platform")
_RELEASE, _API = "ro.build.version.release", "ro.build.version.sdk"
PROBE = (
    "sh", "-c", f'echo "uname:$(uname -srm)"; grep -sH "" {" ".join(_SOURCES)}; '
    "command -v getprop > /dev/null && "
    f"for p in {' '.join((_MODEL, *_CHIPS, _RELEASE, _API))}; do "
    'echo "getprop:$p:$(getprop $p)"; done; true',
)  # fmt: skip
ANDROID = "Android"

# Flags of the vector and matrix units. Others say what the kernel works around, and change with it.
_FEATURE = re.compile(r"(ss?se|avx|fma|amx|asimd|vfp|sve|sme(?!p))\w*|f16c|fp|fphp|neon|i8mm|bf16")
# Cores whose speeds differ by less are of one cluster: some chips clock each core a little apart.
_ALIKE = 0.9
_ARM_PARTS = {
    "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72", "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1", "0xd0d": "Cortex-A77", "0xd40": "Neoverse-V1", "0xd41": "Cortex-A78",
    "0xd44": "Cortex-X1", "0xd46": "Cortex-A510", "0xd47": "Cortex-A710", "0xd48": "Cortex-X2",
    "0xd49": "Neoverse-N2", "0xd4d": "Cortex-A715", "0xd4e": "Cortex-X3", "0xd4f": "Neoverse-V2",
    "0xd80": "Cortex-A520", "0xd81": "Cortex-A720", "0xd82": "Cortex-X4",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Caches:
    """Bytes of the caches that a core sees; 0 where it is not told."""

    l1d: int = 0
    l2: int = 0
    l3: int = 0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Cores of one kind.

    family, model, stepping   as x86 tells them; on ARM: implementer, part, variant and revision
    capacity                  of a core, by the kernel's scale up to 1024; 0: not told
    mhz                       highest frequency; 0: not told
    """

    cores: tuple[int, ...] = ()
    family: str = ""
    model: str = ""
    stepping: str = ""
    capacity: int = 0
    mhz: int = 0
    caches: Caches = Caches()


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts of one machine.

    cpu        its name, or those of its parts, the fastest first; of a phone with the phone's
               name and the chip's
    arch       x86_64, aarch64 ...; system: Linux, Android ...; release: of the system
    features   flags of its vector units
    clusters   of cores that are running, the fastest first
    allowed    cores that the process that measures may use; empty: all of them
    gpu        what runs the kernels, if that is not the CPU: its name and its driver's
    """

    cpu: str = ""
    arch: str = ""
    system: str = ""
    release: str = ""
    features: tuple[str, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    allowed: tuple[int, ...] = ()
    memory_bytes: int = 0
    gpu: str = ""

    @property
    def core_count(self) -> int:
        """Cores that are running, allowed or not."""
        return sum(len(c.cores) for c in self.clusters)

    @property
    def cores(self) -> tuple[int, ...]:
        """The cores that a measurement may use, in the order in which it should take them."""
        return tuple(core for c in self.clusters for core in c.cores if self._may_use(core))

    @property
    def caches(self) -> Caches:
        """Those of the fastest core that a measurement may use."""
        used = self._used_clusters()
        return used[0].caches if used else Caches()

    @property
    def stamp(self) -> str:
        """What measured times are kept under: another one for another processor, and never for
        a new start of the same. The kernel's release, the size of the memory and the process's
        cores are left out, but for clusters that it may not use at all."""
        clusters = [asdict(c) | {"cores": len(c.cores)} for c in self._used_clusters()]
        facts = [self.cpu, self.arch, self.system, self.features, clusters]
        facts += [self.gpu] if self.gpu else []
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        return f"{self.gpu or self.cpu} {digest}".strip()

    def _may_use(self, core: int) -> bool:
        return not self.allowed or core in self.allowed

    def _used_clusters(self) -> list[Cluster]:
        return [c for c in self.clusters if any(map(self._may_use, c.cores))]


def local_machine() -> Machine:
    """The machine that this runs on, as the calling thread may use it."""
    told = platform.uname()
    head = f"uname:{told.system} {told.release} {told.machine}"
    return read_machine("\n".join([head, *_local_lines()]))


def read_machine(text: str) -> Machine:
    """The machine that `text` tells of, in the form that PROBE prints. Facts that are missing are
    left empty; InputError where not even the system is named."""
    files: dict[str, list[str]] = {}
    for line in text.splitlines():
        path, _, content = line.partition(":")
        files.setdefault(path, []).append(content.strip())
    named = " ".join(files.get("uname", ())).split()
    if len(named) < 2:
        raise InputError(
            "the machine does not tell its system and architecture; it needs a shell with uname "
            "and grep"
        )
    arch = named[-1].lower()
    cpus = _Processors(files.get("/proc/cpuinfo", ()))
    clusters = _clusters(files, cpus)
    flags = (cpus.any("flags") or cpus.any("Features")).split()
    memory = _entries(files.get("/proc/meminfo", ())).get("MemTotal", "")
    status = _entries(files.get("/proc/thread-self/status", ()))
    phone = _Phone(_entries(files.get("getprop", ())))
    return Machine(
        cpu=phone.named(cpus.any("model name") or _parts(clusters) or arch),
        arch=arch,
        system=ANDROID if phone.api else named[0],
        release=phone.released(" ".join(named[1:-1])),
        features=tuple(sorted({f for f in flags if _FEATURE.fullmatch(f)})),
        clusters=clusters,
        allowed=_numbers(status.get("Cpus_allowed_list", "")),
        memory_bytes=_whole(memory.partition(" ")[0]) * 1024,
    )


class _Phone:
    """What Android tells; nothing of another system."""

    def __init__(self, properties: Mapping[str, str]) -> None:
        self._told = properties
        self.api = properties.get(_API, "")

    def named(self, parts: str) -> str:
        """The parts of a chip, as 'Pixel 6, GS101: Cortex-X1 + Cortex-A55'."""
        chip = next((name for name in map(self._told.get, _CHIPS) if name), "")
        names = ", ".join(name for name in (self._told.get(_MODEL, ""), chip) if name)
        return f"{names}: {parts}" if self.api and names else parts

    def released(self, kernel: str) -> str:
        return f"{self._told.get(_RELEASE, '')} (API {self.api}), {kernel}" if self.api else kernel


class _Processors:
    """/proc/cpuinfo: entries by core. Old kernels tell some of them once, for all cores."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.by_core: dict[int, dict[str, str]] = {}
        self._first: dict[str, str] = {}
        block: dict[str, str] = {}
        for line in lines:
            name, _, value = (part.strip() for part in line.partition(":"))
            if name == "processor" and value.isdigit():
                block = self.by_core.setdefault(int(value), {})
            elif not name:
                block = {}  # what follows without a number is of the whole chip
            block.setdefault(name, value)
            self._first.setdefault(name, value)

    def any(self, name: str) -> str:
        """An entry of the first core that has it."""
        return self._first.get(name, "")

    def of(self, core: int, name: str) -> str:
        return self.by_core.get(core, {}).get(name) or self.any(name)

    def kind(self, core: int) -> tuple[str, str, str]:
        """Family, model and stepping."""
        if self.any("CPU part"):
            variant, revision = self.of(core, "CPU variant"), self.of(core, "CPU revision")
            stepping = f"r{_whole(variant)}p{_whole(revision)}"
            return self.of(core, "CPU implementer"), self.of(core, "CPU part"), stepping
        return self.of(core, "cpu family"), self.of(core, "model"), self.of(core, "stepping")


def _clusters(files: Mapping[str, Sequence[str]], cpus: _Processors) -> tuple[Cluster, ...]:
    """Cores of one kind and nearly one speed together, the fastest first."""

    def told(path: str) -> int:
        return _whole("".join(files.get(f"{_CPU}/{path}", ())))

    online = _numbers("".join(files.get(f"{_CPU}/online", ()))) or tuple(sorted(cpus.by_core))
    speed = {
        core: (told(f"cpu{core}/cpu_capacity"), told(f"cpu{core}/cpufreq/cpuinfo_max_freq"))
        for core in online
    }
    groups: list[list[int]] = []  # the fastest core of each comes first
    for core in sorted(online, key=lambda c: (*(-x for x in speed[c]), c)):
        for group in groups:
            alike = all(x >= _ALIKE * y for x, y in zip(speed[core], speed[group[0]], strict=True))
            if alike and cpus.kind(core) == cpus.kind(group[0]):
                group.append(core)
                break
        else:
            groups.append([core])
    return tuple(
        Cluster(
            tuple(sorted(group)), *cpus.kind(group[0]), speed[group[0]][0],
            speed[group[0]][1] // 1000, _caches(files, min(group)),
        )
        for group in groups
    )  # fmt: skip


def _caches(files: Mapping[str, Sequence[str]], core: int) -> Caches:
    sizes: dict[int, int] = {}
    for index in range(8):
        folder = f"{_CPU}/cpu{core}/cache/index{index}"
        level, kind, size = ("".join(files.get(f"{folder}/{n}", ())) for n in
                             ("level", "type", "size"))  # fmt: skip
        unit = {"K": 1 << 10, "M": 1 << 20}.get(size[-1:])
        if unit and kind != "Instruction":
            sizes.setdefault(_whole(level), _whole(size[:-1]) * unit)
    return Caches(*(sizes.get(level, 0) for level in (1, 2, 3)))


def _parts(clusters: Iterable[Cluster]) -> str:
    """Names of the kinds of core, where the chip has no name of its own."""
    names = {c.model: _ARM_PARTS.get(c.model, f"ARM {c.family} part {c.model}")
             if c.family == "0x41" else f"implementer {c.family} part {c.model}"
             for c in clusters if c.model and c.family.startswith("0x")}  # fmt: skip
    return " + ".join(names.values())


def _local_lines() -> Iterator[str]:
    """What the PROBE's grep prints here, without starting a process."""
    for pattern in _SOURCES:
        for path in glob(pattern):
            try:
                text = Path(path).read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            yield from (f"{path}:{line}" for line in text.splitlines())


def _entries(lines: Iterable[str]) -> dict[str, str]:
    """`name: value` lines."""
    parts = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in parts}


def _whole(text: str) -> int:
    """A number, in decimal or hexadecimal; 0 for what is none."""
    try:
        return int(text, 0)
    except ValueError:
        return 0


def _numbers(text: str) -> tuple[int, ...]:
    """`0-2,5` as numbers; nothing of a text that is no such list."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        return ()
    ranges = (part.partition("-") for part in text.split(","))
    return tuple(n for a, _, b in ranges for n in range(int(a), int(b or a) + 1))
