"""ONNX -> MNN, in MNN's environment.

python -m peers.convert_mnn ONNX FILE

The native converter is called rather than the command `mnnconvert`, which installs a package and
sends a log of the conversion away.
"""

from __future__ import annotations

import sys
from pathlib import Path

import _tools


def main(source: str, out: str) -> None:
    """Convert; the converter says only in words whether it did."""
    _tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", source, "--MNNModel", out,
                       "--bizCode", "none"])  # fmt: skip
    if not Path(out).is_file():
        raise SystemExit("MNN's converter wrote no model")


if __name__ == "__main__":
    main(*sys.argv[1:])
