"""A benchmark's report counts only if it holds what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from canao.artifact.directory import Artifact
from canao.artifact.measured import Clock
from canao.device.base import Failure, MeasureConfig, Timing
from canao.device.bench import BenchDevice
from canao.device.benchmark_report import Rows, read_steps, read_times
from canao.device.transports.transport import Completed, LocalTransport
from canao.errors import DeviceError
from canao.machine import local_machine

TWO = MeasureConfig(samples=2)


def rows(samples: Sequence[str] = ("1000000", "2000000"), **others: Sequence[str]) -> Rows:
    named = {"samples": samples, "load": ["5"], "cold": ["6"], "peak": ["7"], "isa": ["neon"]}
    named |= others
    clock = [["begin", "90000", "0", "-"], ["end", "91000", "0", "-"]]
    return {name: [list(words)] for name, words in named.items()} | {"clock": clock}


def test_what_a_report_says() -> None:
    times = read_times(rows(), TWO, ("neon",))
    assert times.samples_ms == (1.0, 2.0) and times.peak_bytes == 7
    assert (times.load_ms, times.cold_ms, times.isa) == (5e-6, 6e-6, "neon")
    assert times.clock == Clock((90_000, 91_000))
    told = [["begin", "90000", "2400000", "schedutil"], ["end", "95000", "2300000", "schedutil"]]
    times = read_times({**rows(), "clock": told}, TWO, ("neon",))
    assert times.clock == Clock((90_000, 95_000), (2_400_000, 2_300_000), "schedutil")


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (rows(["1"]), "it has 1 samples, and 2 were asked for"),
        (rows(["1"] * 3), "it has 3 samples, and 2 were asked for"),
        (rows([]), "no line 'samples'"), (rows(["1", "0"]), "'0' is no time"),
        (rows(["1", "-1"]), "'-1' is no time"), (rows(["1", "1e-6"]), "'1e-6' is no time"),
        (rows(["1", "nan"]), "'nan' is no time"), (rows(["1", "9" * 30]), "'9{30}' is no time"),
        (rows(["1", "٣"]), "is no time"), (rows(load=["0"]), "'0' is no time"),
        (rows(cold=["1", "2"]), "several numbers"), (rows(peak=["x"]), "'x' is no size"),
        ({}, "no line 'samples'"), ({**rows(), "samples": [["1", "2"], ["1", "2"]]}, "several l"),
        ({k: v for k, v in rows().items() if k != "peak"}, "no line 'peak'"),
        ({k: v for k, v in rows().items() if k != "isa"}, "does not name the instruction set"),
        ({k: v for k, v in rows().items() if k != "clock"}, "no line 'clock' from before and aft"),
        ({**rows(), "clock": [["begin", "1", "0", "-"]] * 2}, "no line 'clock' from before"),
        ({**rows(), "clock": [["begin", "1", "0", "-"], ["end", "x", "0", "-"]]}, "'x' is no time"),
        ({**rows(), "clock": [["begin", "1", "0", "-"], ["end", "0", "0", "-"]]}, "of a clock"),
        ({**rows(), "clock": [["begin", "1", "0", "-"], ["end", "1", "0", "\x1b[0m"]]}, "a clock"),
        (rows(isa=["neon", "avx2"]), "not name the ins"), (rows(isa=["mmx"]), "not name the ins"),
    ],
)  # fmt: skip
def test_reports_that_do_not_count(report: Rows, words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        read_times(report, TWO, ("neon", "scalar"))


def test_more_and_fewer_where_time_decides() -> None:
    longer, shorter = (MeasureConfig(samples=2, **more) for more in
                       ({"seconds": 1}, {"max_seconds": 1}))  # fmt: skip
    assert len(read_times(rows(["1"] * 9), longer, ["neon"]).samples_ms) == 9
    assert len(read_times(rows(["1"]), shorter, ["neon"]).samples_ms) == 1
    with pytest.raises(DeviceError, match="no line"):
        read_times(rows([]), shorter, ["neon"])


def test_profiles() -> None:
    good = {"step": [["a"], ["b"]], "profile": [["1", "2"], ["3", "0"]]}
    assert read_steps(good, 2) == [("a", (1e-6, 3e-6)), ("b", (2e-6, 0.0))]
    for wrong in ({}, {"step": good["step"]}, {"step": [["a"]], "profile": good["profile"]},
                  good | {"step": [["a"], []]}, good | {"profile": [["1", "x"]] * 2}):  # fmt: skip
        with pytest.raises(DeviceError, match="report cannot be used"):
            read_steps(wrong, 2)
    with pytest.raises(DeviceError, match="it has 2 samples, and 3 were asked for"):
        read_steps(good, 3)


class Forging(LocalTransport):
    """Changes what the benchmark program has said."""

    def __init__(self, change: Callable[[str], str]) -> None:
        super().__init__()
        self.change = change

    def run(self, command: Sequence[str], timeout: float) -> Completed:
        done = super().run(command, timeout)
        return Completed(done.code, self.change(done.stdout), done.stderr)


@pytest.mark.parametrize(
    "change",
    [
        lambda told: "load 1\ncold 1\nsamples 1 1 1\npeak 1\n",
        lambda told: told.replace("samples ", "samples x ").replace("profile ", "profile x "),
        lambda told: "", lambda told: "\n\n",
        lambda told: told + told,
    ],
)  # fmt: skip
def test_a_forged_report_is_a_failure(
    encoder: Artifact, change: Callable[[str], str]
) -> None:
    config = MeasureConfig(length=8, samples=20, warmup=0)
    honest = BenchDevice(local_machine(), LocalTransport())
    assert isinstance(honest.measure(encoder, config), Timing)
    got = BenchDevice(local_machine(), Forging(change)).measure(encoder, config)
    assert isinstance(got, Failure) and "the benchmark's report cannot be used" in got.message
    with pytest.raises(DeviceError, match="report cannot be used"):
        BenchDevice(local_machine(), Forging(change)).profile(encoder, config)
