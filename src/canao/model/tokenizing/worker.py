"""Runs in a process of its own with limits on time and memory, as attempt.py starts it: a tokenizer
that nobody has looked at, on a few texts.

Standard input is one JSON object, the answer on standard output another. This file imports nothing
of the package, so that it starts quickly.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    """Do what standard input asks for; the answer is {"form": ...} or {"error": a line}."""
    asked = json.load(sys.stdin)
    sys.path[:] = asked["path"]
    _limit(asked["seconds"], asked["memory"])
    try:
        answer = _directory(asked) if "directory" in asked else _form(asked)
    except MemoryError:
        sys.exit(3)
    except Exception as error:  # noqa: BLE001  both libraries raise bare Exception
        lines = str(error).strip().splitlines()
        answer = {"error": lines[0] if lines else type(error).__name__}
    json.dump(answer, sys.stdout)


def _form(asked: dict[str, Any]) -> dict[str, Any]:
    """Normalize and split the texts by a tokenizer.json without its vocabulary; the answer is how
    the library understood it."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_str(json.dumps(asked["form"]))
    for text in asked["texts"]:
        if made.normalizer is not None:
            text = made.normalizer.normalize_str(text)
        if made.pre_tokenizer is not None:
            made.pre_tokenizer.pre_tokenize_str(text)
        if made.decoder is not None:
            made.decoder.decode(list(text[:64]))
    return {"form": json.loads(made.to_str())}


def _directory(asked: dict[str, Any]) -> dict[str, Any]:
    """Load what Transformers makes of a directory, and encode the texts."""
    # Loading torch takes most of the time, and no tokenizer needs it.
    sys.modules["torch"] = None  # type: ignore[assignment]
    import transformers

    transformers.utils.logging.set_verbosity_error()
    made = transformers.AutoTokenizer.from_pretrained(
        asked["directory"], local_files_only=True, trust_remote_code=False
    )
    for text in asked["texts"]:
        made(text)
    return {"form": None}


def _limit(seconds: int, memory: int) -> None:
    try:
        import resource
    except ImportError:  # not on every system; the wall clock still limits it
        return
    for kind, most in (("RLIMIT_CPU", seconds), ("RLIMIT_DATA", memory), ("RLIMIT_CORE", 0)):
        which = getattr(resource, kind)
        hard = resource.getrlimit(which)[1]
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(which, (most, hard))


if __name__ == "__main__":
    main()
