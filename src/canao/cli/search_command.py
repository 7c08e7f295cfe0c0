"""A search as commands run it: its progress shown, its report written, its result printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from canao import api
from canao.cli.console import SearchDisplay
from canao.cli.printing import out, print_result


def search_and_report(run_dir: Path, **options: Any) -> None:
    """`canao.search` with these options, as `canao search` and `canao demo` show it."""
    from canao.report.write import write_report

    with SearchDisplay(out) as display:
        result = api.search(
            run_dir=run_dir, progress=display.event, train_progress=display.training, **options
        )
    print_result(result, write_report(run_dir))


def work_and_report(**options: Any) -> None:
    """`canao.worker` with these options, as `canao worker` shows it."""
    with SearchDisplay(out) as display:
        judged = api.worker(
            progress=display.event, train_progress=display.training, **options
        )
    out.print(f"judged {judged} candidate{'' if judged == 1 else 's'}", markup=False)
