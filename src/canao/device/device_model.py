"""A library that runs on a device, as texts see it: texts in, results out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from canao.artifact.directory import Artifact
from canao.device.base import Device
from canao.inference.compiled_model import CompiledModel
from canao.inference.text_model import TextModel
from canao.target import CPU


def opened_on(device: Device) -> Callable[[Artifact], TextModel]:
    """What opens a library where the device is: in this process, if it is this machine's CPU."""
    if not (device.remote or device.emulated) and device.target.backend == CPU:
        return CompiledModel
    return partial(DeviceModel, device=device)


class DeviceModel(TextModel):
    """A compiled model whose library runs on a device, over its transport. It says what
    `CompiledModel` says on a machine of that kind, but for texts that are continued."""

    def __init__(self, artifact: Artifact, device: Device, threads: int = 1) -> None:
        super().__init__(artifact)
        self._device, self._threads = device, threads

    def close(self) -> None:
        """Nothing stays open between calls."""

    def _run_checked(
        self, sequences: Sequence[Sequence[np.ndarray]]
    ) -> list[dict[str, np.ndarray]]:
        names = [output["name"] for output in self._outputs]
        found = self._device.run_batch(self.artifact, sequences, self._threads)
        return [
            {name: array[None] for name, array in zip(names, arrays, strict=True)}
            for arrays in found
        ]
