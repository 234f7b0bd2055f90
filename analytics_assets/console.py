"""What a person sees of a run: progress while it works, and tables when it is done."""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from analytics_assets.settings import Settings, UserError

if TYPE_CHECKING:
    import duckdb
    from rich.progress import Progress as Bars
    from rich.text import Text

    from analytics_assets.events.intake import BatchReport
    from analytics_assets.privacy.ledger import Person

# Data may hold what a terminal obeys: escape sequences, line ends, marks that turn the direction of writing; and file names
# may hold bytes that no encoding writes.
_UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """Text that a terminal only shows: a control character stands as its escape, such as `\\x1b`."""
    return _UNSHOWABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: str, *, err: bool = False) -> None:
    """One line for a person."""
    click.echo(plain(text), err=err)


def counted(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


# Progress


class Display(Protocol):
    """Where a step is shown. `total` is None while nobody knows it; `count` says in words how far it is."""

    def begin(self, text: str, done: float = 0, total: float | None = None, count: str = "") -> None: ...

    def move(self, done: float, total: float | None, count: str) -> None: ...


class BarDisplay:
    """A bar in a terminal."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._task = bars.add_task("starting", total=None, count="")

    def begin(self, text: str, done: float = 0, total: float | None = None, count: str = "") -> None:
        self._bars.reset(self._task, description=plain(text), completed=int(done), total=total, count=count)
        self.move(done, total, count)

    def move(self, done: float, total: float | None, count: str) -> None:
        self._bars.update(self._task, completed=done, total=total, count=count)


class LineDisplay:
    """Lines where there is no terminal: one when a step begins, and one whenever nothing was said for `every` seconds."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic, every: float = 5.0) -> None:
        self._write, self._clock, self._every = write, clock, every
        self._text, self._count = "starting", ""
        self._began = self._said = clock()

    def begin(self, text: str, done: float = 0, total: float | None = None, count: str = "") -> None:
        self._text, self._count = text, ""
        self._began = self._said = self._clock()
        self._write(f"{text} ({count})" if count else text)

    def move(self, done: float, total: float | None, count: str) -> None:
        self._count = count
        self.beat()

    def beat(self) -> None:
        """Say how far the step is, unless something was said just now."""
        now = self._clock()
        if now - self._said >= self._every:
            self._said = now
            self._write(", ".join(filter(None, (f"{self._text}: {now - self._began:.0f} s", self._count))))


@contextmanager
def _display() -> Iterator[Display]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(),
            TextColumn("{task.fields[count]}", markup=False), TimeElapsedColumn(), console=console, transient=True,
        ) as bars:  # fmt: skip
            yield BarDisplay(bars)
        return
    say("starting", err=True)
    lines = LineDisplay(lambda text: say(f"{datetime.now():%H:%M:%S} {text}", err=True))  # noqa: DTZ005 - a person's clock
    done = threading.Event()

    def beats() -> None:
        while not done.wait(0.5):
            lines.beat()

    beating = threading.Thread(target=beats, daemon=True)
    beating.start()
    try:
        yield lines
    finally:
        done.set()
        beating.join()


def readable_bytes(path: Path) -> int | None:
    """Bytes that reading a file goes through; None where that is not known before it was read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return size
        if size < 4:
            return None
        file.seek(-4, 2)
        # gzip ends with the size of its last member, modulo 4 GiB: less than the packed file where there are several.
        unpacked = int.from_bytes(file.read(4), "little")
    return unpacked if unpacked > size else None


@dataclass(frozen=True)
class Refreshed:
    """What readers got by a refresh: whether another version, and which files of roles (`role/tenant`)."""

    version: bool
    written: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        """What became of the files of roles, a phrase each."""
        found = (("written", self.written), ("removed", self.removed))
        return [f"{counted(len(names), 'file')} for roles {did}: {_some(names)}" for did, names in found if names]


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class Runner:
    """Jobs that show how far they are. A refresh says its step of all steps, a load its share of the file."""

    # What `refresh` says of a range of days: sessions, marts, users, judging, publishing.
    STAGES = 5

    def __init__(self, settings: Settings, display: Display) -> None:
        # Dagster takes seconds to import, while the display already says that something happens.
        from analytics_assets.defs.resources import Progress
        from analytics_assets.defs.run import Jobs
        from analytics_assets.pipeline import Pipeline

        runner = self

        class Shown(Progress):
            @contextmanager
            def loading(self, context: Any, label: str, path: Path) -> Iterator[Callable[[int, int], None]]:
                yield runner._loading(path)

            def stage(self, text: str) -> None:
                runner._stage(text)

            def part(self, done: int, total: int) -> None:
                runner._part(done, total)

        self._display, self._step, self._steps = display, 0, 1
        self._jobs, self._stages = Jobs(settings, {"progress": Shown()}), Pipeline(settings)

    def ingest(self, path: Path, source: str, tenant: str | None) -> "BatchReport":
        """Load one file as a Dagster run."""
        self._stages.source(source)
        self._display.begin(f"loading {path.name}")
        known = self._stages.known(path, source, tenant)
        if known:
            return known
        self._jobs.run("ingest", ops={"intake": {"path": str(path.resolve()), "source": source, "tenant": tenant}})
        report = self._stages.report(path, source, tenant)
        if report is None:
            raise UserError(f"{path.name} was loaded but its batch is not listed; run it again")
        return report

    def refresh(self, release: bool = False) -> Refreshed:
        """Rebuild the days that wait, then publish."""
        from analytics_assets.defs.partitions import range_tags
        from analytics_assets.events.days import ranges
        from analytics_assets.privacy.role_files import there
        from analytics_assets.warehouse.publish import current_version

        version, files = current_version(self._stages.home), there(self._stages.home)
        with self._stages.connect() as con:
            if self._stages.erasures.waiting():
                # What an older backup brought back, or a kill left, is not published once more.
                self.erase(con)
            found = ranges(self._stages.pending(con))
        config = {"analytics_duckdb": {"release": release}}
        self._step, self._steps = 0, self.STAGES * len(found) or 1
        for days in found:
            self._display.begin(f"rebuilding {days.first}" + (f" to {days.last}" if days.last != days.first else ""))
            self._jobs.run("refresh", ops=config, tags=range_tags(days))
        # A data home without any event has nothing to publish.
        if not found and self._stages.last_rebuild() is not None:
            self._jobs.run("publish", ops=config)
        now = there(self._stages.home)
        return Refreshed(
            current_version(self._stages.home) != version,
            tuple(name for name in now if now[name] != files.get(name)),
            tuple(name for name in files if name not in now),
        )

    def erase(self, con: "duckdb.DuckDBPyConnection", people: "Sequence[Person]" = ()) -> None:
        """Take all who are to be erased out of what is stored; `people` are who may be among them."""
        from analytics_assets.events.intake import utc_now

        self._display.begin("erasing")
        self._stages.erasures.remove(con, utc_now(), hints=people, progress=self._display.begin)

    def _loading(self, path: Path) -> Callable[[int, int], None]:
        total = readable_bytes(path)
        rows = size = 0

        def advance(more_rows: int, more_size: int) -> None:
            nonlocal rows, size
            rows, size = rows + more_rows, size + more_size
            self._display.move(size, total if total and size <= total else None, counted(rows, "record"))

        return advance

    def _stage(self, text: str) -> None:
        self._step += 1
        self._display.begin(text, self._step - 1, self._steps, f"step {self._step} of {self._steps}")

    def _part(self, done: int, total: int) -> None:
        share = self._step - 1 + done / total
        self._display.move(share, self._steps, f"step {self._step} of {self._steps}, {done} of {total} models and tests")


@contextmanager
def running(settings: Settings) -> Iterator[Runner]:
    """Jobs that run in this process and show progress on standard error: a bar in a terminal, lines otherwise."""
    with _display() as display:
        yield Runner(settings, display)


# Tables

_NUMBERS = {"received", "rejected", "duplicates", "events", "sessions", "records", "rows", "version", "seconds"}
_NUMBERS |= {"attempts", "runs", "failed", "cost", "share", "success", "times broken"}
Rows = Iterable[Sequence[object]]


def show(columns: Sequence[str], rows: Rows, *, tall: bool = False) -> None:
    """A table on standard output. Numbers of its known columns stand to the right; None is an empty cell.

    With `tall`, what is too wide for the terminal stands as a list of columns and values for each row.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text, since rich would take square brackets for its own markup.
    names = [Text(plain(column)) for column in columns]
    cells = [[Text(plain(_cell(value))) for value in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in names:
        number = name.plain in _NUMBERS
        table.add_column(name, justify="right" if number else "left", overflow="fold", no_wrap=number)
    for row in cells:
        table.add_row(*row)
    console = Console()
    # A pipe has no width: let tables have what they need.
    if not console.is_terminal:
        console = Console(width=10_000)
    with console.capture() as capture:
        if tall and cells and _width(names, *cells) > console.width:
            for row in cells:
                upright = Table("", "", box=None, show_header=False, pad_edge=False)
                for pair in zip(names, row, strict=True):
                    upright.add_row(*pair)
                console.print(upright, console.width * "\u2500", sep="\n")
        else:
            console.print(table)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n")


def _width(*rows: "Sequence[Text]") -> int:
    return sum(max(cell.cell_len for cell in column) + 2 for column in zip(*rows, strict=True)) - 2


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return f"[{', '.join(map(_cell, value))}]"
    if isinstance(value, datetime):
        return str(value)[:19]
    return str(value)


def show_batches(reports: Sequence["BatchReport"]) -> None:
    """A row a batch, then a line for each of which there is more to say."""
    show(("file", "source", "tenant", "received", "rejected", "duplicates", "events"), map(_batch_row, reports))
    told = [f"{report.file}: {what}" for report in reports if (what := _what_happened(report))]
    for line in told:
        say(line)
    if told:
        click.echo()


def _batch_row(report: "BatchReport") -> Sequence[object]:
    numbers = (f"{count:,}" for count in (report.received, report.rejected, report.duplicates, report.events))
    return (report.file, report.source, report.tenant or "(by row)", *numbers)


def _what_happened(report: "BatchReport") -> str | None:
    if report.known_before:
        return "loaded before, nothing changed"
    rejected = ", ".join(f"{count:,} {reason}" for reason, count in report.rejected_by_reason.items())
    return f"rejected: {rejected}" if rejected else None
