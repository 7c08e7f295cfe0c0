"""The command `canao`: also what goes wrong while its parts are imported ends in one line."""

from __future__ import annotations

from canao.cli.ending import end


def main() -> None:
    """Entry point of the command."""
    end(_run)


def _run() -> object:
    from canao.cli.app import app

    return app(standalone_mode=False)
