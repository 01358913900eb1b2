"""What a build shows while it runs: one line a step, with a bar where its length is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

#: Hears how much of how much is done, and what is being done.
Report = Callable[[int, int, str], None]


def silent(done: int, total: int, what: str) -> None:
    """For those who do not care."""


@dataclass(frozen=True, slots=True)
class BuildDisplay:
    """Shows steps on a terminal; writes one line for each that has ended anywhere else."""

    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))

    def note(self, message: str) -> None:
        """Something that the user should know."""
        self.console.print(f"note: {message}", markup=False)

    @contextmanager
    def step(self, title: str) -> Iterator[Report]:
        """While the block runs, ``title`` is shown with what its reports say. Nothing is left of it afterwards."""
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as progress:
            task = progress.add_task(title, total=None)

            def report(done: int, total: int, what: str) -> None:
                progress.update(
                    task, completed=done, total=total or None, description=f"{title}: {what}" if what else title
                )

            yield report

    def run(self, title: str, result: object, work: Callable[[Report], bool]) -> None:
        """Run ``work``, which says whether it had to do anything, and write what became of it."""
        started_s = time.monotonic()
        with self.step(title) as report:
            done = work(report)
        elapsed_s = time.monotonic() - started_s
        self.console.print(
            f"{title}: {escape(str(result))} [dim]{'' if done else 'up to date, '}{elapsed_s:.1f} s[/dim]"
        )
