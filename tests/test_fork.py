"""Models in forked processes, as of a web server that loads a model and then forks its workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from canao.artifact.directory import Artifact
from canao.compiler.pipeline import compile_model
from canao.errors import CanaoError, InputError
from canao.inference.compiled_model import CompiledModel
from tests.compiler.models import decoder
from tests.oracle import assert_close

LIMIT_S = 60


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    model = decoder(layers=1, max_length=32)
    return compile_model(model, tmp_path_factory.mktemp("fork") / "out")


def in_child(work: Callable[[], object]) -> None:
    """Do something in a forked process; it fails here if it fails or hangs there."""
    child = os.fork()
    if not child:
        signal.alarm(LIMIT_S)
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001  whatever it is, it ends this process
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


IDS = np.arange(1, 8, dtype=np.int32)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("threads", (1, 2, 3))
def test_a_child_goes_on_with_the_model(artifact: Artifact, threads: int) -> None:
    with CompiledModel(artifact, threads) as model:
        want = model(IDS)

        def work() -> None:
            assert np.array_equal(model(IDS), want)
            assert all(np.array_equal(row, want) for row in model.run_batch([IDS, IDS, IDS]))
            model.close()
            with pytest.raises(InputError, match="closed"):
                model(IDS)

        in_child(work)
        assert np.array_equal(model(IDS), want)  # closing it there is nothing to this one
        in_child(work)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("threads", (1, 2))
def test_forked_during_calls_of_another_thread(artifact: Artifact, threads: int) -> None:
    """The lock of the Python object is free in the child, and so is the model."""
    with CompiledModel(artifact, threads) as model:
        want, stop = model(IDS), threading.Event()

        def keep_busy() -> None:
            while not stop.is_set():
                model(IDS)

        busy = threading.Thread(target=keep_busy)
        busy.start()
        try:
            for _ in range(20):
                in_child(lambda: np.testing.assert_array_equal(model(IDS), want))
        finally:
            stop.set()
            busy.join()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_sequence_goes_on_in_the_child(artifact: Artifact) -> None:
    with CompiledModel(artifact, 2) as model:
        model.extend(IDS[:4])

        def rest() -> np.ndarray:
            return next(iter(model.extend(IDS[4:]).values()))

        def work() -> None:
            assert_close(rest()[-1], whole)

        with CompiledModel(artifact) as other:
            whole = other(IDS)[-1]
        in_child(work)
        assert_close(rest()[-1], whole)


def test_workers_of_multiprocessing(artifact: Artifact) -> None:
    """With the start method "fork", which was the default until Python 3.14."""
    program = (
        "import sys, multiprocessing, numpy as np\n"
        "from canao.inference.compiled_model import CompiledModel\n"
        "model = CompiledModel(sys.argv[1], 2)\n"
        "def call(n): return model(np.arange(1, n + 1, dtype=np.int32))[-1].tolist()\n"
        "want = [call(n) for n in range(1, 9)]\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    assert pool.map(call, range(1, 9)) == want\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(artifact.path)],
        capture_output=True, text=True, timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.parametrize("cores", [(-1, 0), (0, -1), (0, 2**40), (0, 1000), (0.0, 1), (True, 0)])
def test_cores_that_are_not_there(artifact: Artifact, cores: tuple[int, int]) -> None:
    with pytest.raises(CanaoError, match=r"cores|core "):
        CompiledModel(artifact, 2, cores)


@pytest.mark.parametrize("threads", [0, -1, 65, 1.0, True, "2"])
def test_threads_that_are_no_number(artifact: Artifact, threads: int) -> None:
    with pytest.raises(InputError, match="give 1 to 64"):
        CompiledModel(artifact, threads)


def test_files_that_are_none(artifact: Artifact, tmp_path: Path) -> None:
    """A pipe, a device or a directory in place of the library or the weights, unverified."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("model.so", "weights.bin"):
        for i, other in enumerate((tmp_path / "pipe", Path("/dev/zero"), tmp_path)):
            copy = tmp_path / f"{name}-{i}"
            shutil.copytree(artifact.path, copy)
            (copy / name).unlink()
            (copy / name).symlink_to(other)
            with pytest.raises(CanaoError, match=r"not a regular file|cannot be"):
                CompiledModel(Artifact(copy, artifact.manifest))
            with pytest.raises(InputError, match="not a regular file"):
                Artifact.load(copy)
