"""What benchmarks say while they run."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """A line on standard error, at once."""
    print(text, file=sys.stderr, flush=True)


def report(stage: str, done: int, total: int, note: str) -> None:
    """The progress of training, in a line every 50 steps."""
    if done % 50 == 0 or done == total:
        say(f"{stage}: step {done} of {total}, {note}")
