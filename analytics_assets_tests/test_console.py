"""What a person sees: progress with and without a terminal, honest totals, tables that data cannot break."""

import gzip
import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from analytics_assets.cli import main
from analytics_assets.console import (
    LineDisplay,
    Runner,
    counted,
    plain,
    readable_bytes,
    show,
)
from analytics_assets.marts.project import models
from analytics_assets.status import show_tenants, waiting_lines
from analytics_assets_tests.builders import NOON
from analytics_assets_tests.defs.home import a_call, a_data_home


def shown(call: Any, *arguments: Any) -> list[str]:
    out = io.StringIO()
    with redirect_stdout(out):
        call(*arguments)
    return out.getvalue().splitlines()


# Progress


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_without_a_terminal_no_step_is_silent_for_long() -> None:
    said: list[str] = []
    clock = Clock()
    lines = LineDisplay(said.append, clock, every=5)
    lines.begin("marts with dbt", 1, 4, "step 2 of 4")
    for second in range(1, 13):
        clock.now = second
        if second == 7:
            lines.move(1.5, 4, "step 2 of 4, 13 of 26 models and tests")
        lines.beat()
    assert said == [
        "marts with dbt (step 2 of 4)",
        "marts with dbt: 5 s",
        "marts with dbt: 10 s, step 2 of 4, 13 of 26 models and tests",
    ]


class Recorder:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float | None, str]] = []

    def begin(self, text: str, done: float = 0, total: float | None = None, count: str = "") -> None:
        self.seen.append((done, total, text))

    def move(self, done: float, total: float | None, count: str) -> None:
        self.seen.append((done, total, count))


def test_a_bar_goes_from_nothing_to_all_by_the_bytes_of_the_file_and_the_steps_of_the_refresh(tmp_path: Path) -> None:
    with a_data_home(tmp_path) as home:
        # Slices are bounded in bytes: two calls of this size fill one.
        file = home.file("calls.ndjson", [a_call(name, x="y" * 9_000_000) for name in ("m1", "m2", "m3")])
        recorder = Recorder()
        runner = Runner(home.settings, recorder)
        runner.ingest(file, "segment", "acme")
        loading = [seen for seen in recorder.seen if seen[2].endswith(("record", "records"))]
        recorder.seen.clear()
        runner.refresh()
    size = file.stat().st_size
    (half, *_), last = loading
    assert size / 2 < half < size
    assert last == (size, size, "3 records")
    assert [text for _, _, text in recorder.seen if "models and tests" not in text] == [
        "rebuilding 2025-03-10", "sessions and page views", "marts with dbt", "users", "judging quality", "publishing",
    ]  # fmt: skip
    steps = [(done, total) for done, total, _ in recorder.seen if total]
    assert steps == sorted(steps)
    assert steps[0] == (0, 5) and steps[-1] == (4, 5)
    parts = sum(1 + len(model.tests) for model in models().values())
    assert f"step 2 of 5, {parts} of {parts} models and tests" in [text for _, _, text in recorder.seen]


@pytest.mark.parametrize(
    ("content", "known"),
    [
        (b"12345", 5),
        (b"", 0),
        (gzip.compress(bytes(1000), mtime=0), 1000),
        # Only the size of the last member is written.
        (gzip.compress(bytes(range(256)) * 9, mtime=0) + gzip.compress(b"x", mtime=0), None),
        (b"\x1f\x8b", None),
    ],
)
def test_the_bytes_of_a_file_are_known_or_said_to_be_unknown(tmp_path: Path, content: bytes, known: int | None) -> None:
    (tmp_path / "file").write_bytes(content)
    assert readable_bytes(tmp_path / "file") == known


# Totals


def test_the_demo_counts_its_own_files_in_a_home_that_holds_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_data_home(tmp_path) as home:
        other = home.file("other.ndjson", [a_call("m1"), a_call("m9"), a_call("m8", type="dance")])
        run("ingest", other, "--source", "segment", "--tenant", "acme")
        run("ingest", home.file("theirs.ndjson", [a_call("m1")]), "--source", "segment", "--tenant", "globex")
        sample = home.file(
            "sample.ndjson", [a_call("m1"), a_call("m2"), a_call("m3"), a_call("m3"), a_call("m4", type="dance")]
        )
        monkeypatch.setattr("analytics_assets.cli._SAMPLE_FILES", ((sample, "segment", "acme"),))
        first, again = run("demo"), run("demo")
    totals = ["received 5", "rejected: unknown_type 1", "duplicates 2", "events 2", "sessions of these tenants 1"]
    for lines in (first, again):
        assert [line for line in lines if line.rsplit(" ", 1)[0] in {total.rsplit(" ", 1)[0] for total in totals}] == totals
    unchanged = "nothing changed: the same files were loaded before, and the published version stays"
    assert (unchanged in first, unchanged in again) == (False, True)


def run(*arguments: object) -> list[str]:
    """The command's answer, lines with single spaces."""

    def call() -> None:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        assert left.value.code == 0

    return [" ".join(line.split()) for line in shown(call)]


# Tables


def a_tenant(name: str, *, events: int = 10, days_behind: int = 0) -> dict[str, Any]:
    through = NOON - timedelta(days=days_behind)
    return {"tenant": name, "events": events, "newest_event": through, "received_through": NOON}


def test_every_tenant_is_shown_and_of_very_many_the_rest_by_the_one_furthest_behind() -> None:
    tenants = [a_tenant("one"), a_tenant("two"), a_tenant("late", days_behind=9), a_tenant("fresh")]
    assert [line.split()[0] for line in shown(show_tenants, tenants)[2:6]] == ["one", "two", "late", "fresh"]
    rest = shown(show_tenants, tenants, 2)[4]
    assert " ".join(rest.split()) == "2 more, the oldest: late 20 2026-03-01 12:00:00 2026-03-10 12:00:00"


def test_a_cell_is_text_whatever_it_holds() -> None:
    lines = shown(show, ("name", "rows"), [("[red]a\x1b[2J", 1), ("b\udcff\nc\u202e", None), ([None, "d\t"], NOON)])
    assert [line.split() for line in lines[2:5]] == [
        ["[red]a\\x1b[2J", "1"], ["b\\udcff\\nc\\u202e"], ["[,", "d\\t]", "2026-03-10", "12:00:00"],
    ]  # fmt: skip


def test_plain_text_stays_as_it_is() -> None:
    assert plain("Zoë paid 5 € 👍🏽 [x] \\n") == "Zoë paid 5 € 👍🏽 [x] \\n"


@pytest.mark.parametrize(("count", "text"), [(0, "0 records"), (1, "1 record"), (2000, "2,000 records")])
def test_one_is_singular(count: int, text: str) -> None:
    assert counted(count, "record") == text


def a_state(**changes: Any) -> dict[str, Any]:
    return {"held": None, "newer_is_built": False, "days_waiting": 0, "files_waiting": 0, "files_refused": [], **changes}


@pytest.mark.parametrize(
    ("state", "lines"),
    [
        (a_state(), ["nothing waits"]),
        (a_state(days_waiting=1, files_waiting=2), ["waiting: 1 day to rebuild, 2 files"]),
        (
            a_state(queue={"the off-peak window 22:00-05:00 UTC": 2, "its turn": 1}),
            ["3 runs wait in the queue: 2 for the off-peak window 22:00-05:00 UTC, 1 for its turn (`analytics queue`)"],
        ),
        (a_state(newer_is_built=True), ["newer data are built but not published; run `analytics publish`"]),
        (
            a_state(held="why"),
            ["publishing is held since a rollback (why): nothing newer is built; `analytics publish` releases it"],
        ),
    ],
)
def test_what_waits_is_said(state: dict[str, Any], lines: Sequence[str]) -> None:
    assert waiting_lines(state) == lines
