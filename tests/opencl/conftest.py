"""Tests on whatever OpenCL device is numbered 0 here; they are skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator

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
