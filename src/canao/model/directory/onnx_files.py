"""The .onnx files of a model directory that has its weights in no other form."""

from __future__ import annotations

from pathlib import Path

_SHOWN = 3


def onnx_hint(path: Path) -> str:
    """Which .onnx file to give in place of a directory, for a message; '' if there is none."""
    found = [*sorted(path.glob("*.onnx")), *sorted(path.glob("onnx/*.onnx"))]
    if not found:
        return ""
    more = f" or {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"; give its ONNX file: {', '.join(map(str, found[:_SHOWN]))}{more}"
