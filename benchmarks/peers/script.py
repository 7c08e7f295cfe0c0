"""How a recording script runs: its table or its measurements, its errors in a line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from canao.errors import CanaoError
from peers.progress import say
from peers.records import Record, Records
from peers.results import Results, file_of


def ended(name: str, work: Callable[[], None]) -> int:
    """The exit code of a script that does its work, and says in a line what went wrong."""
    try:
        work()
    except CanaoError as error:
        say(f"{name}: error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say(f"{name}: interrupted; the same command goes on where it was")
        return 130
    return 0


def recorded(
    options: argparse.Namespace, file: Path, identity: Sequence[str],
    write: Callable[[Sequence[Record]], None], run: Callable[[Results], None],
) -> None:  # fmt: skip
    """With --table, `write` the page of the records; else `run`, which puts more of them into the
    file. `identity` names the entries that tell one record from another."""
    records = Records(file_of(options, file), tuple(identity))
    if options.table:
        write(records.read())
        return
    results = Results.start(records, options.draft)
    run(results)
    results.close()
