"""The main job on the embedded default, from Python: what `canao demo` and `make run` do.

    python examples/spoken_commands.py --out runs/commands
"""

from __future__ import annotations

import sys

from canao.cli.app import main

if __name__ == "__main__":
    sys.argv[1:1] = ["demo"]
    main()
