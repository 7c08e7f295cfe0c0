"""A search as commands run it: its progress shown, its report written, its result printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from canao import api
from canao.cli.console import SearchDisplay
from canao.cli.parsing.options import numbers_of
from canao.cli.printing import out, print_result, print_students
from canao.device.base import Device


def search_and_report(run_dir: Path, **options: Any) -> None:
    """`canao.search` with these options, as `canao search` and `canao demo` show it."""
    from canao.report.write import write_report

    with SearchDisplay(out) as display:
        result = api.search(
            run_dir=run_dir, progress=display.event, train_progress=display.training, **options
        )
    print_result(result, write_report(run_dir))


def search_each_and_report(
    budgets: str, run_dir: Path, from_run: Path | None, **options: Any
) -> None:
    """`search_and_report` for each of several budgets, and the students in one table."""
    from canao.report.write import write_report
    from canao.search.certification import SearchResult
    from canao.search.several import search_each

    def one(budget: float, place: Path, other: Path | None) -> SearchResult:
        with SearchDisplay(out) as display:
            result = api.search(
                run_dir=place, budget_ms=budget, from_run=other, progress=display.event,
                train_progress=display.training, **options,
            )  # fmt: skip
        print_result(result, write_report(place))
        return result

    asked = numbers_of("--budgets", budgets, float)
    found = search_each(asked, run_dir, from_run, one, lambda event: out.print(event.text))
    print_students(run_dir, found[1])


def search_each_device_and_report(
    budgets: list[float], run_dir: Path, from_run: Path | None, **options: Any
) -> None:
    """`search_and_report` for each of several devices."""
    from canao.report.write import write_report
    from canao.search.certification import SearchResult
    from canao.search.several import search_each_device

    def one(device: Device, budget: float, place: Path, other: Path | None) -> SearchResult:
        with SearchDisplay(out) as display:
            result = api.search(
                run_dir=place, device=device, budget_ms=budget, from_run=other,
                progress=display.event, train_progress=display.training, **options,
            )  # fmt: skip
        print_result(result, write_report(place))
        return result

    devices = api.devices_of(options.pop("device"))
    pairs = list(zip(devices, api.budgets_of(budgets, devices), strict=True))
    search_each_device(pairs, run_dir, from_run, one, lambda event: out.print(event.text))


def work_and_report(**options: Any) -> None:
    """`canao.worker` with these options, as `canao worker` shows it."""
    with SearchDisplay(out) as display:
        judged = api.worker(
            progress=display.event, train_progress=display.training, **options
        )
    out.print(f"judged {judged} candidate{'' if judged == 1 else 's'}", markup=False)
