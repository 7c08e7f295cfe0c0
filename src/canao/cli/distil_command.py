"""A general distillation as the command runs it: its progress shown, its result printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.markup import escape

from canao import api
from canao.cli.console import SearchDisplay
from canao.cli.printing import out


def distil_and_print(run_dir: Path, **options: Any) -> None:
    """`canao.distil` with these options, as `canao distil` shows it."""
    with SearchDisplay(out) as display:
        found = api.distil(run_dir=run_dir, train_progress=display.training, **options)
    first, last = found.curve[0], found.curve[-1]
    out.print(f"student  {found.arch}", soft_wrap=True)
    out.print(
        f"loss     {last.loss:.4f} after {last.tokens:,} tokens; it was {first.loss:.4f} in the "
        f"first {first.tokens:,}", soft_wrap=True,
    )  # fmt: skip
    out.print(f"model    {escape(str(found.model_dir))}", soft_wrap=True)
    out.print(f"curve    {escape(str(run_dir / 'curve.jsonl'))}", soft_wrap=True)
