"""What a machine says of its clocks, its heat and its battery."""

from __future__ import annotations

import subprocess

from canao.device.state import PROBE, UNTOLD, lowest_khz, read_state

PHONE = """\
/sys/class/thermal/thermal_zone0/type:BIG
/sys/class/thermal/thermal_zone1/type:battery
/sys/class/thermal/thermal_zone2/type:BIG
/sys/class/thermal/thermal_zone3/type:broken
/sys/class/thermal/thermal_zone0/temp:61250
/sys/class/thermal/thermal_zone1/temp:35000
/sys/class/thermal/thermal_zone2/temp:64000
/sys/class/thermal/thermal_zone3/temp:-274000
/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq:1803000
/sys/devices/system/cpu/cpu6/cpufreq/scaling_cur_freq:2802000
/sys/devices/system/cpu/cpu7/cpufreq/scaling_cur_freq:2401000
/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor:sched_pixel
/sys/class/power_supply/battery/type:Battery
/sys/class/power_supply/battery/capacity:80
power:mWakefulness=Awake
battery:Current Battery Service state:
battery:AC powered: false
battery:USB powered: true
battery:level: 81
thermal:Thermal Status: 2
saver:0
"""
LAPTOP = """\
/sys/class/power_supply/AC/type:Mains
/sys/class/power_supply/BAT0/type:Battery
/sys/class/power_supply/BAT0/capacity:55
/sys/class/power_supply/BAT0/status:Discharging
/sys/class/thermal/thermal_zone0/type:acpitz
/sys/class/thermal/thermal_zone0/temp:47
"""


def test_a_phone() -> None:
    state = read_state(PHONE)
    assert state.celsius == {"BIG": 64.0, "battery": 35.0} and state.hottest == 64.0
    assert state.khz == {0: 1803000, 6: 2802000, 7: 2401000}
    assert lowest_khz(state, (6, 7)) == 2401000 and lowest_khz(state, ()) == 1803000
    assert lowest_khz(state, (3,)) is None
    assert state.governors == ("sched_pixel",)
    assert (state.battery, state.charging) == (81, True)
    assert (state.screen_on, state.battery_saver, state.throttling) == (True, False, 2)


def test_a_laptop() -> None:
    state = read_state(LAPTOP)
    assert (state.battery, state.charging, state.hottest) == (55, False, 47.0)
    assert state.screen_on is None and state.throttling is None


def test_nothing_told_is_nothing_said() -> None:
    assert read_state("") == read_state("what\nis: this\n") == UNTOLD
    assert UNTOLD.to_dict() == {} and UNTOLD.hottest is None


def test_this_machine_answers() -> None:
    """Whatever it tells, in a form that can be read."""
    done = subprocess.run(PROBE, capture_output=True, text=True, check=True)
    assert not done.stderr
    read_state(done.stdout)
