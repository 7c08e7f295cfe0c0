"""State: what a machine's speed depends on from one minute to the next, as its system tells it.

`PROBE` is the shell command that prints it on Linux and Android; `read_state` makes a State of it.
What a system does not tell is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_CPU = "/sys/devices/system/cpu"
_SUPPLY, _ZONES = "/sys/class/power_supply", "/sys/class/thermal"
_FILES = (
    f"{_ZONES}/thermal_zone[0-9]*/type",
    f"{_ZONES}/thermal_zone[0-9]*/temp",
    f"{_CPU}/cpu[0-9]*/cpufreq/scaling_cur_freq",
    f"{_CPU}/cpu[0-9]*/cpufreq/scaling_governor",
    *(f"{_SUPPLY}/*/{name}" for name in ("type", "capacity", "status")),
)
# What Android tells of itself only: screen, charging, battery saver, and its own thermal status.
_ANDROID = (
    'dumpsys power | grep -m 1 "mWakefulness=" | sed "s/^ */power:/"; '
    'dumpsys battery | sed "s/^ */battery:/"; '
    'dumpsys thermalservice | grep -m 1 "Thermal Status" | sed "s/^ */thermal:/"; '
    'echo "saver:$(settings get global low_power)"'
)
PROBE = (
    "sh", "-c", f'grep -sH "" {" ".join(_FILES)}; '
    f"command -v dumpsys > /dev/null 2>&1 && {{ {_ANDROID}; }} 2> /dev/null; true",
)  # fmt: skip

_COLDEST, _HOTTEST = -60.0, 200.0  # degrees that a thermometer may tell
_CHARGING = ("charging", "full")
_CORE, _ZONE = re.compile(r"/cpu(\d+)/cpufreq/"), re.compile(r"thermal_zone\d+")


@dataclass(frozen=True, slots=True)
class State:
    """celsius     degrees by the name of a thermal zone; the hottest of several of one name
    khz            the clock of each core now
    governors      who sets these clocks
    battery        its charge in percent, and whether it is charging
    screen_on, battery_saver   as Android tells it
    throttling     Android's thermal status: 0 is none, 6 shuts the device down
    """

    celsius: Mapping[str, float]
    khz: Mapping[int, int]
    governors: tuple[str, ...] = ()
    battery: int | None = None
    charging: bool | None = None
    screen_on: bool | None = None
    battery_saver: bool | None = None
    throttling: int | None = None

    @property
    def hottest(self) -> float | None:
        return max(self.celsius.values(), default=None)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, of what is told."""
        row: dict[str, Any] = {
            "celsius": dict(self.celsius), "khz": {str(core): k for core, k in self.khz.items()},
            "governors": list(self.governors), "battery": self.battery, "charging": self.charging,
            "screen_on": self.screen_on, "battery_saver": self.battery_saver,
            "throttling": self.throttling,
        }  # fmt: skip
        return {name: value for name, value in row.items() if value not in (None, {}, [])}


UNTOLD = State({}, {})


def read_state(text: str) -> State:
    """The state that `text` tells of, in the form that PROBE prints."""
    files: dict[str, str] = {}
    for line in text.splitlines():
        path, _, content = line.partition(":")
        if path == "battery":
            name, _, value = content.partition(":")
            files[f"battery {name.strip()}"] = value.strip()
        else:
            files.setdefault(path, content.strip())
    clocks = {int(match[1]): value for path, value in files.items()
              if path.endswith("scaling_cur_freq") and (match := _CORE.search(path))}  # fmt: skip
    governors = {v for path, v in files.items() if path.endswith("scaling_governor") and v}
    level, charging = _battery(files)
    wakefulness = files.get("power", "").partition("=")[2]
    saver, status = files.get("saver", ""), files.get("thermal", "").rpartition(":")[2].strip()
    return State(
        celsius=_celsius(files),
        khz={core: int(khz) for core, khz in sorted(clocks.items()) if khz.isdecimal()},
        governors=tuple(sorted(governors)),
        battery=level,
        charging=charging,
        screen_on=wakefulness == "Awake" if wakefulness else None,
        battery_saver=saver == "1" if saver in ("0", "1") else None,
        throttling=int(status) if status in set("0123456") else None,
    )


def _celsius(files: Mapping[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for path, name in files.items():
        if not path.endswith("/type") or not _ZONE.search(path):
            continue
        degrees = _degrees(files.get(path.removesuffix("type") + "temp", ""))
        if degrees is not None:
            found[name] = max(degrees, found.get(name, degrees))
    return dict(sorted(found.items()))


def _degrees(text: str) -> float | None:
    """Of thousandths, which Linux has; some old drivers tell whole degrees."""
    if not re.fullmatch(r"-?\d{1,6}", text):
        return None
    number = int(text)
    degrees = number / 1000 if abs(number) >= 1000 else float(number)
    return degrees if _COLDEST < degrees < _HOTTEST else None


def _battery(files: Mapping[str, str]) -> tuple[int | None, bool | None]:
    """Percent and whether it charges: by Android, else by the first battery of the system."""
    level = files.get("battery level", "")
    if level.isdecimal():
        powered = [v for name, v in files.items()
                   if name.startswith("battery ") and name.endswith("powered")]  # fmt: skip
        return int(level), "true" in powered if powered else None
    for capacity, status in _supplies(files):
        return capacity, status.lower() in _CHARGING if status else None
    return None, None


def _supplies(files: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    for path, kind in files.items():
        if path.startswith(_SUPPLY) and path.endswith("/type") and kind == "Battery":
            folder = path.removesuffix("/type")
            capacity = files.get(f"{folder}/capacity", "")
            if capacity.isdecimal():
                yield int(capacity), files.get(f"{folder}/status", "")


def lowest_khz(state: State, cores: Sequence[int]) -> int | None:
    """The slowest clock of these cores, or of all where none are named."""
    told = [khz for core, khz in state.khz.items() if not cores or core in cores]
    return min(told, default=None)
