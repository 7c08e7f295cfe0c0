"""Tries a tokenizer in a process of its own, so that one which takes all memory or never ends is
refused in seconds. What it does depends on its files alone, so that is remembered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from canao.errors import InputError
from canao.model.tokenizing.corpus import TEXTS

_WORKER = Path(__file__).with_name("worker.py")
# A pipeline takes milliseconds for these texts. Converting the largest vocabularies takes seconds,
# and Transformers itself is loaded for it.
_PIPELINE = {"seconds": 5, "memory": 1 << 30}
_DIRECTORY = {"seconds": 120, "memory": 8 << 30}
# Characters of a text that consists of one thing, and of one that ends in another: patterns of
# which the time grows with the square of a text, or doubles with each character.
_LONG = 1500
_THINGS = ("a", "A", " ", "\n", "0", ".", "aA", "a ", "a1", "é", "漢", "'s", "\u0301")
_REMEDY = "a tokenizer that does that is not compiled"


def try_form(place: str, form: dict[str, Any], texts: tuple[str, ...]) -> dict[str, Any]:
    """How the tokenizers library understands a tokenizer.json without its vocabulary.

    It is run on texts, those of `texts` among them. InputError, which names `place`, if it cannot
    be read, or takes more time or memory than any tokenizer should.
    """
    long = [thing * (_LONG // len(thing)) for thing in _THINGS]
    asked = {"form": form, "texts": [*TEXTS, *long, *(f"{t}!" for t in long), *texts], **_PIPELINE}
    answer = json.loads(_answer(json.dumps(asked)))
    if "error" in answer:
        raise InputError(
            f"{place}: cannot be read as a tokenizer ({answer['error'][:200]}); save it again"
        )
    if answer.get("form") is None:
        raise InputError(f"{place}: {answer['broken']}; {_REMEDY}")
    found: dict[str, Any] = answer["form"]
    return found


def try_directory(place: str, directory: Path) -> None:
    """InputError if Transformers takes all time or memory to load a tokenizer from a directory.

    What it says of files that it cannot read is left to whoever loads them.
    """
    asked = {"directory": str(directory), "texts": list(TEXTS), **_DIRECTORY}
    answer = json.loads(_run(json.dumps(asked)))
    if "broken" in answer:
        raise InputError(f"{place}: {answer['broken']}; {_REMEDY}")


@lru_cache(maxsize=64)
def _answer(asked: str) -> str:
    return _run(asked)


def _run(asked: str) -> str:
    """The worker's answer; {"broken": why} if it ended without one."""
    request = {**json.loads(asked), "path": sys.path}
    seconds = request["seconds"]
    # No prompt of a library is ever answered: standard input holds the request and then ends.
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
             "PYTHONWARNINGS": "ignore", "RUST_BACKTRACE": "0"}  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, str(_WORKER)], input=json.dumps(request).encode(),
            capture_output=True, timeout=3 * seconds, env={**os.environ, **quiet}, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return json.dumps({"broken": f"takes more than {3 * seconds} s for short texts"})
    if done.returncode == 0:
        return done.stdout.decode()
    return json.dumps({"broken": _why(done, request)})


def _why(done: subprocess.CompletedProcess[bytes], request: dict[str, Any]) -> str:
    said = done.stderr.decode("utf-8", "replace")
    if "memory allocation" in said or "MemoryError" in said or done.returncode == 3:
        return f"takes more than {request['memory'] >> 20} MB of memory for short texts"
    if done.returncode in (-24, -9):  # SIGXCPU, and SIGKILL at the hard limit or for memory
        return f"takes more than {request['seconds']} s or too much memory for short texts"
    lines = [line.strip() for line in said.splitlines()]
    panic = next((i for i, line in enumerate(lines) if "panicked at" in line), len(lines))
    why = f" ({lines[panic + 1][:120]})" if panic + 1 < len(lines) else ""
    return f"breaks the tokenizers library{why}"
