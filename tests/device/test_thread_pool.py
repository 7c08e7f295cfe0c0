"""The thread pool beside an application's own: how many, that they rest, two at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from canao.artifact.directory import Artifact
from canao.compiler.pipeline import compile_model
from canao.inference.compiled_model import CompiledModel
from tests.compiler.models import classifier

pytestmark = pytest.mark.as_shipped

TASKS = Path("/proc/self/task")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return compile_model(classifier("small"), tmp_path_factory.mktemp("a") / "out")


@pytest.mark.skipif(not TASKS.is_dir(), reason="threads are counted in /proc")
@pytest.mark.parametrize("threads", (1, 2, 4))
def test_the_caller_is_one_of_the_threads(artifact: Artifact, threads: int, sentences) -> None:
    before = len(list(TASKS.iterdir()))
    with CompiledModel(artifact, threads) as model:
        model(*sentences(33, 99, 2))
        assert len(list(TASKS.iterdir())) == before + threads - 1
    assert len(list(TASKS.iterdir())) == before


@pytest.mark.parametrize("threads", (2, 4))
def test_an_idle_model_takes_no_time(artifact: Artifact, threads: int, sentences) -> None:
    """Workers spin for less than a millisecond after a call; then they sleep."""
    with CompiledModel(artifact, threads) as model:
        model(*sentences(33, 99, 2))
        time.sleep(0.1)
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.03
        model(*sentences(33, 99, 2))  # and they wake up again


@pytest.mark.parametrize("threads", (1, 2))
def test_models_in_threads_of_an_application(artifact: Artifact, threads: int, sentences) -> None:
    """Two models, each with its own pool and caller: more threads than cores, the same results."""
    texts = [sentences(length, 99, 2) for length in (7, 33, 128)]
    with CompiledModel(artifact) as alone:
        want = [alone(*text) for text in texts]
    wrong: list[str] = []

    def serve(name: str) -> None:
        with CompiledModel(artifact, threads) as model:
            for turn in range(30):
                got = model(*texts[turn % 3])
                if not np.array_equal(got, want[turn % 3]):
                    wrong.append(f"{name}, turn {turn}")

    callers = [threading.Thread(target=serve, args=(name,)) for name in ("first", "second")]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong
