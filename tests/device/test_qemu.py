"""An emulated processor: right results on a machine that is not here, and no times."""

from __future__ import annotations

import numpy as np
import pytest

from canao import api
from canao.artifact.directory import Artifact
from canao.compiler.pipeline import compile_model
from canao.device.bench import BenchDevice
from canao.device.emulated import qemu_device
from canao.device.lease import leased
from canao.device.transports.qemu import library_root
from canao.errors import DeviceError, InputError
from tests.compiler.models import classifier, reference
from tests.device.test_remote import LENGTHS
from tests.oracle import assert_close

pytestmark = pytest.mark.cross


@pytest.fixture
def device(qemu: str) -> BenchDevice:
    try:
        library_root()
    except DeviceError as error:
        pytest.skip(str(error))
    return qemu_device("cortex-a76")


def compiled(device: BenchDevice, folder) -> Artifact:
    return compile_model(classifier("small"), folder / "out", target=device.target)


def test_a_batch(device: BenchDevice, tmp_path, sentences) -> None:
    """Of several lengths, and with threads."""
    artifact = compiled(device, tmp_path)
    for threads, lengths in ((1, LENGTHS), (2, (17,))):
        batch = [list(sentences(length, 99, 2)) for length in lengths]
        for inputs, outputs in zip(batch, device.run_batch(artifact, batch, threads), strict=True):
            want = reference(classifier("small"), *inputs)
            assert_close(outputs[0], np.asarray(want[0][0]))


def test_what_is_emulated(device: BenchDevice) -> None:
    """Each CPU has its own features, and its own stamp."""
    assert device.emulated and not device.remote and device.name == "qemu:cortex-a76"
    assert device.machine.cpu == "qemu cortex-a76" and device.target.arch == "aarch64"
    assert "asimddp" in device.machine.features
    old = qemu_device("cortex-a53")
    assert "asimddp" not in old.machine.features and "asimd" in old.machine.features
    assert old.machine.stamp != device.machine.stamp


def test_nothing_is_measured(device: BenchDevice, tmp_path) -> None:
    with pytest.raises(InputError, match=r"device qemu:cortex-a76: emulates .*canao verify"):
        leased(device)
    with pytest.raises(InputError, match=r"canao verify"):
        api.search(
            teacher=tmp_path, data=tmp_path / "none.tsv", budget_ms=1.0, device=device,
            run_dir=tmp_path / "run",
        )  # fmt: skip


def test_no_such_processor(device: BenchDevice) -> None:
    with pytest.raises(InputError, match=r"qemu knows no processor 'abacus'"):
        qemu_device("abacus")


def test_it_is_not_installed(device: BenchDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QEMU_LD_PREFIX", "/nowhere")
    with pytest.raises(DeviceError, match=r"libc6-arm64-cross"):
        qemu_device(None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DeviceError, match=r"qemu-aarch64 is not installed"):
        qemu_device(None)
