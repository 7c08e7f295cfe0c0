"""Which version of the source a record is of."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from peers.catalog import ROOT

# What a figure depends on. Pages and results change as records are made.
_PATHS = ("src", "benchmarks", "tests", "pyproject.toml",
          ":(exclude)benchmarks/results", ":(exclude,glob)**/*.md")  # fmt: skip


@dataclass(frozen=True)
class Source:
    """The last commit that changed the source, None outside of a checkout; and what has changed
    since, in no commit."""

    commit: str | None
    changed: tuple[str, ...]

    @staticmethod
    def read() -> Source:
        commit = _git("log", "-1", "--format=%H", "--", *_PATHS)
        state = _git("status", "--porcelain", "--untracked-files=all", "--", *_PATHS)
        if not commit or state is None:
            return Source(None, ())
        return Source(commit.strip(), tuple(line[3:] for line in state.splitlines()))

    def until(self, end: Source) -> dict[str, Any]:
        """For a record that was begun with this source and ended with that one."""
        changed = dict.fromkeys((*self.changed, *end.changed))
        if end.commit != self.commit:
            changed[f"commit {end.commit}"] = None
        return asdict(Source(self.commit, ())) | {"changed": list(changed)}


def _git(*arguments: str) -> str | None:
    """What git prints; None where it fails."""
    command: Sequence[str] = ("git", "-C", str(ROOT), *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except OSError:
        return None
    return None if done.returncode else done.stdout
