"""What a device that measures over a transport adds to the suite, and the measured values."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from canao.artifact.directory import Artifact
from canao.compiler.pipeline import compile_model
from canao.device.base import Failure, MeasureConfig, Timing
from canao.device.bench import BenchDevice, connect, local_device
from canao.device.transports.transport import Completed, LocalTransport, Transport
from canao.errors import DeviceError, InputError
from canao.machine import Cluster, Machine, local_machine, read_machine
from tests.device.echo import EchoTransport
from tests.test_machine import BOARD

ONCE = MeasureConfig(length=8, samples=1, warmup=0)


def timing(*samples: float) -> Timing:
    return Timing(samples, 1.0, 1.0, 1, MeasureConfig())


def test_percentiles_are_samples() -> None:
    t = timing(*map(float, range(10, 0, -1)))
    assert [t.percentile(q) for q in (1, 10, 11, 50, 90, 99, 100)] == [1, 1, 2, 5, 9, 10, 10]
    assert timing(3.0).percentile(90) == 3.0
    for q in (0, -1, 101):
        with pytest.raises(InputError):
            t.percentile(q)


def test_time_and_memory_are_the_librarys(encoder: Artifact) -> None:
    got = local_device().measure(encoder, MeasureConfig(length=33, threads=2, samples=40))
    assert isinstance(got, Timing)
    # The library's own weights and arena, not what the test process holds.
    assert 1e6 < got.peak_bytes < 2e8 and got.load_ms > 0
    assert got.environment["isa"] and got.environment["date"]
    assert got.environment["load_average"] >= 0
    longer = local_device().measure(encoder, MeasureConfig(samples=1, seconds=0.2, length=33))
    assert isinstance(longer, Timing) and sum(longer.samples_ms) > 150


def test_memory_counts_weights_that_no_run_has_read(tmp_path: Path) -> None:
    """Of a table of embeddings a run reads a few rows."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50_000, hidden_size=64, num_attention_heads=2,
                        intermediate_size=64, num_hidden_layers=1)  # fmt: skip
    artifact = compile_model(BertModel(config).eval(), tmp_path / "out")
    weights = artifact.weights.stat().st_size
    got = local_device().measure(artifact, MeasureConfig(length=8, warmup=1, samples=4))
    assert isinstance(got, Timing) and weights > 12e6
    assert weights < got.peak_bytes < weights + 20e6


def test_longer_texts_take_longer(encoder: Artifact) -> None:
    device = local_device()
    short, long = (device.measure(encoder, MeasureConfig(length=n, samples=60)) for n in (8, 512))
    assert isinstance(short, Timing) and isinstance(long, Timing)
    assert long.percentile(50) > 5 * short.percentile(50)


def test_peak_is_plausible() -> None:
    device = local_device()
    rate = device.peak_flops()
    assert 1e9 < rate < 1e12 and math.isclose(device.peak_flops(2), 2 * rate, rel_tol=0.3)


def test_what_cannot_be_measured(encoder: Artifact) -> None:
    for core in (999, -1, 2**31, 2**32, 2**64):
        no_core = local_device().measure(encoder, MeasureConfig(samples=1, cores=(core,)))
        assert isinstance(no_core, Failure) and "pinned" in no_core.message
    for threads in (65, 2**32 + 1):
        many = local_device().measure(encoder, MeasureConfig(samples=1, threads=threads))
        assert isinstance(many, Failure) and "wrong arguments" in many.message
    for wrong in ({"length": 0}, {"threads": 0}, {"samples": 0}, {"cores": (0, 1)}):
        with pytest.raises(InputError):
            MeasureConfig(**wrong)


def test_cores_are_the_machines() -> None:
    """The fastest first; none where there are fewer than threads, and those that were named."""
    board = BenchDevice(read_machine(BOARD), LocalTransport())
    assert board.pinned(MeasureConfig(threads=1)) == (4,)
    assert board.pinned(MeasureConfig(threads=6)) == (4, 5, 6, 7, 0, 1)
    assert board.pinned(MeasureConfig(threads=9)) == ()
    assert board.pinned(MeasureConfig(threads=2, cores=(1, 0))) == (1, 0)
    few = Machine(arch="x86_64", system="Linux", clusters=(Cluster((3, 4, 5)),), allowed=(5,))
    assert BenchDevice(few, LocalTransport()).pinned(MeasureConfig()) == (5,)


@pytest.mark.parametrize("way", [lambda folder: LocalTransport(), EchoTransport])
def test_a_file_that_is_no_library(
    encoder: Artifact, tmp_path: Path, way: Callable[[Path], Transport]
) -> None:
    """The file here is named, wherever it was tried."""
    library = tmp_path / "model.so"
    library.write_text("text")
    bad = Artifact(tmp_path, encoder.manifest)
    (tmp_path / "weights.bin").write_bytes(b"")
    got = connect(way(tmp_path / "there")).measure(bad, ONCE)
    assert isinstance(got, Failure) and str(library) in got.message


def test_a_file_that_is_gone(encoder: Artifact, tmp_path: Path) -> None:
    gone = Artifact(tmp_path / "gone", encoder.manifest)
    with pytest.raises(DeviceError, match=r"gone/model\.so"):
        local_device().profile(gone, ONCE)
    with pytest.raises(DeviceError, match=r"gone/model\.so: cannot be sent to echo"):
        connect(EchoTransport(tmp_path / "there")).profile(gone, ONCE)


class Broken(LocalTransport):
    """Fails at running commands whose first word ends so."""

    def __init__(self, word: str, error: OSError) -> None:
        super().__init__()
        self.word, self.error = word, error

    def run(self, command: Sequence[str], timeout: float) -> Completed:
        if command[0].endswith(self.word):
            raise self.error
        return super().run(command, timeout)


@pytest.mark.parametrize(
    ("word", "error", "words"),
    [
        ("program", TimeoutError(), "the benchmark did not end within 3600 s"),
        ("program", OSError(5, "link is down"), r"the benchmark cannot run \(link is down\)"),
        ("cat", TimeoutError(), "reading the load did not end within 60 s"),
    ],
)
def test_a_connection_that_breaks(encoder: Artifact, word: str, error: OSError, words: str) -> None:
    device = BenchDevice(local_machine(), Broken(word, error))
    got = device.measure(encoder, ONCE)
    assert isinstance(got, Failure) and re.search(words, got.message)


def test_nobody_answers() -> None:
    with pytest.raises(DeviceError, match=r"local: does not answer \(no route\); look after the"):
        connect(Broken("sh", OSError(113, "no route")))


def test_what_a_shell_says_of_signals() -> None:
    assert Completed.of_shell(139, "", "").code == -11
    assert [Completed.of_shell(code, "", "").code for code in (0, 1, 128)] == [0, 1, 128]


def test_the_local_transport_copies_nothing(tmp_path: Path) -> None:
    transport = LocalTransport()
    file = tmp_path / "file"
    file.write_text("x")
    assert transport.push(file, "name") == str(file)
    folder = Path(transport.folder)
    (folder / "out").write_text("y")
    transport.pull(f"{transport.folder}/out", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "y"
    transport.close()
    assert not folder.exists() and file.exists()


@pytest.mark.parametrize("way", [lambda folder: LocalTransport(), EchoTransport])
def test_commands_that_take_too_long_are_stopped(
    tmp_path: Path, way: Callable[[Path], Transport]
) -> None:
    seconds = str(os.getpid() + 10_000)  # so that it is nobody else's
    with pytest.raises(TimeoutError):
        way(tmp_path / "there").run(["sleep", seconds], 0.2)
    running = [told.read_bytes() for told in Path("/proc").glob("[0-9]*/cmdline") if told.exists()]
    assert f"sleep\0{seconds}\0".encode() not in running
