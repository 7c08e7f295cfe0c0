"""`python -m canao` is the command `canao`."""

from __future__ import annotations

from canao.cli.app import main

main()
