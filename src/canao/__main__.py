"""`python -m canao` is the command `canao`."""

from __future__ import annotations

from canao.cli.entry import main

main()
