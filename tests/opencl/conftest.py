"""Tests on whatever OpenCL device is numbered 0 here; they are skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from canao.device.opencl import NUMBER, local_gpus
from canao.errors import CanaoError


@pytest.fixture(autouse=True, scope="session")
def opencl_device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its name in `--device`. Programs that are built are kept for these tests alone."""
    try:
        found = local_gpus()
    except CanaoError as error:
        pytest.skip(f"no OpenCL here: {error}")
    if not found:
        pytest.skip("OpenCL has no device here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(NUMBER, "0")
        patch.setenv("CANAO_OPENCL_CACHE", str(tmp_path_factory.mktemp("opencl")))
        # To have a driver compile everything at every load takes it minutes.
        patch.setattr("canao.device.opencl._NOTHING_KEPT", ())
        yield "opencl:0"


@pytest.fixture(autouse=True)
def shipped_programs(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels as users get them are not those that other tests built without optimising."""
    if request.node.get_closest_marker("as_shipped"):
        monkeypatch.setenv("CANAO_OPENCL_CACHE", str(tmp_path / "shipped-programs"))
