"""The command line: the table of commands. Each parses its options (parsing/), calls the Python
interface and prints."""

from __future__ import annotations

import typer

from canao.cli.ending import end
from canao.cli.parsing.compiling import cache, compile, inspect, tune
from canao.cli.parsing.running import bench, certify, devices, run, verify
from canao.cli.parsing.training import demo, distil, report, search, worker

app = typer.Typer(
    help="Latency budget in, certified native language model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# In the order in which help lists them.
for command in (
    search, worker, distil, demo, compile, tune, run, inspect, verify, bench, certify, devices,
    report, cache,
):  # fmt: skip
    app.command()(command)


def main() -> None:
    """Every error is one line on standard error and an exit code: see `ending.py`."""
    end(lambda: app(standalone_mode=False))


if __name__ == "__main__":
    main()
