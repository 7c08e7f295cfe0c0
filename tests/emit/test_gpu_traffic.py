"""Counts of what GPU kernels read: those of the generated code, as docs/gpu.md shows them."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_traffic  # noqa: E402


def test_the_page_has_what_the_code_has() -> None:
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    found = list(gpu_traffic.schedules())
    assert gpu_traffic.tiles(found) in page and gpu_traffic.shapes(found) in page


def test_default_tiles_fit_a_phone() -> None:
    """As few reads for a multiply-add as the others' largest tiles, in the registers of a Mali."""
    (own,) = {gpu_traffic.counted(s, step) for _, s in gpu_traffic.schedules() for step in s.steps
              if isinstance(step.plan, gpu_traffic.ItemGemmPlan)}  # fmt: skip
    assert own.fmas / own.reads >= max(t.fmas / t.reads for t in gpu_traffic.OTHERS)
    assert gpu_traffic.occupancy(own) in ("all", "half")
