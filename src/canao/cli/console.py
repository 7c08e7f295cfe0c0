"""The progress of a search: one line for each event, and a live bar on a terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

if TYPE_CHECKING:
    from canao.search.options import Event

# Without a terminal, a training stage prints a line at most this often.
_LINE_SECONDS = 15.0


class SearchDisplay:
    """Context manager; `event` and `training` are the two callbacks of a search."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.begun = time.monotonic()
        self.spoken = self.begun
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("{task.fields[note]}"), console=console,
            transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self.task: TaskID | None = None

    def __enter__(self) -> SearchDisplay:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.bar.stop()

    def event(self, event: Event) -> None:
        self._clear()
        left = ""
        if event.seconds_left is not None and event.done < event.total:
            left = f", about {max(1, round(event.seconds_left / 60))} min left in the search"
        self._say(event.text + left)

    def training(self, stage: str, done: int, total: int, note: str) -> None:
        """Show the steps of a training stage: a bar on a terminal, else a line now and then."""
        if not self.console.is_terminal:
            now = time.monotonic()
            if now - self.spoken >= _LINE_SECONDS:
                self._say(f"{stage} {done}/{total} {note}".rstrip())
            return
        if self.task is None:
            self.task = self.bar.add_task(stage, total=total, note=note)
        self.bar.update(self.task, description=stage, completed=done, total=total, note=note)
        if done >= total:
            self._clear()

    def _clear(self) -> None:
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None

    def _say(self, text: str) -> None:
        self.spoken = time.monotonic()
        minutes, seconds = divmod(int(self.spoken - self.begun), 60)
        self.console.print(f"[{minutes:02d}:{seconds:02d}] {text}", markup=False, soft_wrap=True)
