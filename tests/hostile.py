"""Models that are made to take memory or time without end, and what becomes of them: each is judged
in another process, which may have so much memory and so many seconds and no more."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOM = 1_500_000_000  # bytes beyond what Python and its libraries take
SECONDS = 40  # for one model, on a machine that does other things too


def judged(models: Mapping[str, Path], *, room: int = ROOM) -> dict[str, str]:
    """What `canao` says of each model: 'compiled', or the class of the error and its text."""
    given = json.dumps({name: str(path) for name, path in models.items()})
    child = subprocess.run(
        [sys.executable, "-m", "tests.hostile", str(room)], input=given, capture_output=True,
        text=True, timeout=SECONDS * (1 + len(models)), check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    said = dict(json.loads(line) for line in child.stdout.splitlines() if line.startswith("["))
    # Whoever is missing has ended the process.
    return {name: said.get(name, f"died: {child.stderr[-300:]}") for name in models}


def assert_refused(said: Mapping[str, str], words: Mapping[str, Sequence[str]]) -> None:
    """Each model is refused in one line, with these words in it."""
    wrong = {
        name: said[name] for name, wanted in words.items()
        if not said[name].startswith(("InputError: ", "UnsupportedError: "))
        or "\n" in said[name] or not all(word in said[name] for word in wanted)
    }  # fmt: skip
    assert not wrong, wrong


def _verdict(path: str) -> str:
    from canao.compiler.loading import load_model
    from canao.compiler.pipeline import compile_graph
    from canao.errors import CanaoError
    from canao.lower.scheduling import default_plans
    from canao.target import get_target

    signal.alarm(SECONDS)
    try:
        _, graph = load_model(path)
        compile_graph(graph, get_target(), planner=default_plans)
    except CanaoError as error:
        return f"{type(error).__name__}: {error}"
    except BaseException as error:  # noqa: BLE001  the time is up, or the memory
        return f"broken: {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return "compiled"


def _late(*_: Any) -> None:
    raise TimeoutError(f"after {SECONDS} seconds")


def main() -> None:
    import onnx.inliner  # noqa: F401  what is loaded later would count
    import transformers  # noqa: F401

    import canao.compiler.pipeline  # noqa: F401

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = taken + int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, _late)
    for name, path in json.load(sys.stdin).items():
        print(json.dumps([name, _verdict(path)]), flush=True)


if __name__ == "__main__":
    main()
