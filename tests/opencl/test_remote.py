"""A GPU of another machine, `opencl:N@ssh:HOST`: libraries, weights and the benchmark go there, and
so does what its driver makes of kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from canao.accuracy.verified import examined, keep_verdict, require_right
from canao.api import get_device
from canao.artifact.verification import verification_on
from canao.compiler.pipeline import compile_model
from canao.device.base import MeasureConfig, Timing
from canao.device.opencl import OpenClDevice
from canao.errors import DeviceError
from tests.compiler.models import classifier
from tests.device.servers import at_home, ssh_server


def test_a_gpu_over_ssh(
    opencl_device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("canao.accuracy.verified.LOADS", 2)
    with ssh_server(tmp_path / "sshd") as server:
        at_home(server.home, monkeypatch)
        other = f"ssh:{server.address}"
        device = get_device(f"{opencl_device}@{other}")
        assert isinstance(device, OpenClDevice) and device.remote
        assert device.name == f"{opencl_device}@{other}" and device.place == other
        made = compile_model(classifier("small"), tmp_path / "out", target=device.target)
        verdict = examined(made, classifier("small"), device, longest=8)
        require_right(made, device, verdict)
        keep_verdict(made, device, verdict)
        assert verification_on(made, device.name, device.machine.stamp, 8).loads == 2
        timing = device.measure(made, MeasureConfig(length=8, samples=3, warmup=1))
        assert isinstance(timing, Timing) and timing.environment["gpu"] == device.gpu.shown
        with pytest.raises(DeviceError, match=rf"{other}: OpenCL has no device of the number 77"):
            get_device(f"opencl:77@{other}")
        device.close()
