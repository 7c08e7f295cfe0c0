"""What a device does over a transport for which files are sent: batches, weights that are made
there, cores that it may not pin to."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from canao.artifact.directory import Artifact
from canao.artifact.weights_file import parts_of
from canao.compiler.pipeline import compile_model
from canao.device.base import Failure, MeasureConfig, Timing
from canao.device.bench import BenchDevice, connect
from canao.device.device_model import DeviceModel, opened_on
from canao.device.null import NullDevice
from canao.errors import DeviceError, InputError
from canao.inference.compiled_model import CompiledModel
from canao.machine import Cluster, local_machine
from tests.compiler.models import classifier
from tests.device.echo import EchoTransport

LENGTHS = (1, 7, 8, 17, 31, 33, 64, 127, 128)
FEW = MeasureConfig(length=17, samples=5, warmup=1)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[BenchDevice]:
    device = connect(EchoTransport(tmp_path / "there"))
    yield device
    device.close()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return compile_model(classifier("small"), tmp_path_factory.mktemp("bert") / "out")


def folder(device: BenchDevice) -> Path:
    assert isinstance(device.transport, EchoTransport)
    return device.transport.root


@pytest.mark.parametrize("threads", (1, 2))
def test_a_batch_is_as_on_this_machine(
    device: BenchDevice, bert: Artifact, threads: int, sentences
) -> None:
    batch = [list(sentences(length, 99, 2)) for length in LENGTHS]
    found = device.run_batch(bert, batch, threads)
    with CompiledModel(bert) as model:
        for inputs, outputs in zip(batch, found, strict=True):
            want = model.run(*inputs)
            assert len(outputs) == len(want)
            for got, (name, array) in zip(outputs, want.items(), strict=True):
                assert np.array_equal(got, array), name


def test_nothing_in_nothing_out(device: BenchDevice, bert: Artifact) -> None:
    assert device.run_batch(bert, []) == []
    assert not list(folder(device).iterdir())


def test_ids_are_checked_before_they_are_sent(device: BenchDevice, bert: Artifact) -> None:
    with pytest.raises(InputError, match="input_ids holds 99"):
        device.run_batch(bert, [[np.array([1, 99]), np.array([0, 0])]])
    assert not list(folder(device).iterdir())


def test_texts_over_a_transport(device: BenchDevice, bert: Artifact, sentences) -> None:
    batch = [list(sentences(length, 99, 2)) for length in LENGTHS]
    with DeviceModel(bert, device) as far, CompiledModel(bert) as near:
        for got, want in zip(far.run_batch(batch), near.run_batch(batch), strict=True):
            assert np.array_equal(got, want)
        with pytest.raises(InputError, match="sequence 1: "):
            far.run_batch([batch[0], np.array([100])])


def test_where_a_library_is_opened(device: BenchDevice) -> None:
    assert opened_on(NullDevice()) is CompiledModel
    assert opened_on(device) is not CompiledModel


def weights_there(device: BenchDevice) -> Path:
    return folder(device) / "made-weights.bin"


def test_weights_of_a_library_that_is_only_timed(
    device: BenchDevice, bert: Artifact, sentences
) -> None:
    """They are made there once, are none of the model's own, and give finite numbers."""
    timed = replace(bert, timed_only=True)
    assert isinstance(device.measure(timed, FEW), Timing)
    assert not (folder(device) / "weights.bin").exists()
    made, own = weights_there(device).read_bytes(), bert.weights.read_bytes()
    assert len(made) == len(own) and made[:64] == own[:64]
    assert np.mean(np.frombuffer(made, np.uint8) == np.frombuffer(own, np.uint8)) < 0.2
    before = weights_there(device).stat().st_mtime_ns
    assert device.profile(timed, FEW)
    assert weights_there(device).stat().st_mtime_ns == before
    (outputs,) = device.run_batch(timed, [list(sentences(33, 99, 2))])
    assert all(np.isfinite(array).all() for array in outputs)
    assert isinstance(device.measure(bert, FEW), Timing)  # and with its own
    assert (folder(device) / "weights.bin").read_bytes() == own


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_they_take_as_long(
    device: BenchDevice, precision: str, tmp_path: Path, sentences
) -> None:
    """Ordinary numbers in every type: none that a processor is slow with."""
    made = compile_model(classifier("small"), tmp_path / "out", precision=precision)
    asked = MeasureConfig(length=64, samples=300)
    own, timed = device.measure(made, asked), device.measure(replace(made, timed_only=True), asked)
    assert isinstance(own, Timing) and isinstance(timed, Timing)
    assert min(timed.samples_ms) == pytest.approx(min(own.samples_ms), rel=0.5)


def test_places_in_tables_are_not_made_up(bert: Artifact) -> None:
    """Where a model looks up must lie inside its tables: those whole numbers are sent."""
    marked = replace(bert, manifest=bert.manifest | {"places": [[128, 16], [256, 4]]})
    parts, own = parts_of(marked), bert.weights.read_bytes()
    numbers = struct.unpack("<8q", parts[:64])
    assert numbers == (len(own), 3, 0, 64, 128, 16, 256, 4)
    assert parts[64:] == own[:64] + own[128:144] + own[256:260]


def test_parts_that_are_not_there(device: BenchDevice, bert: Artifact) -> None:
    for places in ([[0, 1 << 40]], [[1 << 40, 8]]):
        wrong = replace(bert, timed_only=True, manifest=bert.manifest | {"places": places})
        got = device.measure(wrong, FEW)
        assert isinstance(got, Failure) and "cut short" in got.message


def test_refused_pinning_is_told(bert: Artifact, tmp_path: Path) -> None:
    """As on a phone whose system keeps some cores to itself: the figure is taken all the same."""
    there = Cluster((4096, 4097))  # as far as this device knows
    machine = replace(local_machine(), clusters=(there, *local_machine().clusters), allowed=())
    refused = BenchDevice(machine, EchoTransport(tmp_path / "there"))
    for cores in ((), (4096, 4097)):
        got = refused.measure(bert, replace(FEW, threads=2, cores=cores))
        assert isinstance(got, Timing) and got.environment["pinned"] == []


def test_a_core_that_is_not_there(device: BenchDevice, bert: Artifact) -> None:
    got = device.measure(bert, replace(FEW, cores=(4096,)))
    assert isinstance(got, Failure) and "no thread can be pinned to core 4096" in got.message


def test_outputs_that_are_cut_short(
    device: BenchDevice, bert: Artifact, monkeypatch: pytest.MonkeyPatch, sentences
) -> None:
    pull = device.transport.pull

    def short(remote: str, local: Path) -> None:
        pull(remote, local)
        local.write_bytes(local.read_bytes()[:-4])

    monkeypatch.setattr(device.transport, "pull", short)
    with pytest.raises(DeviceError, match="the library gave"):
        device.run_batch(bert, [list(sentences(8, 99, 2))])
