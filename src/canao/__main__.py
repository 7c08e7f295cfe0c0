"""`python -m canao` is the command `canao`."""

from __future__ import annotations

import sys

from canao.cli.app import main

sys.exit(main())
