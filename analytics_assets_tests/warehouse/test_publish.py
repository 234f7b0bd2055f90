"""Publishing: readers see one version of everything, and a bad one never; rollback, release, retention, a moved home."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from analytics_assets.events.schema import EVENTS
from analytics_assets.settings import UserError
from analytics_assets.warehouse import publish as room
from analytics_assets.warehouse.connect import connection
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.maintain import sweep
from analytics_assets.warehouse.publish import (
    Publishable,
    Published,
    PublishRefused,
    current_path,
    current_version,
    history,
    publications,
    publish,
    rollback,
    version_path,
    versions,
)
from analytics_assets.warehouse.table import Table, replace_all
from analytics_assets_tests.builders import NOW, published, rows_of
from analytics_assets_tests.conftest import Retail
from analytics_assets_tests.warehouse.test_table import COUNTS, some_days


class Killed(BaseException):
    """What a killed process leaves: nothing that comes after it."""


def killed(*_: object) -> None:
    raise Killed


class Shop:
    """A home with one table whose every row bears the number of its state."""

    def __init__(self, root: Path, con: duckdb.DuckDBPyConnection) -> None:
        self.home, self.con = Home(root), con
        self.table = Table(self.home.warehouse, COUNTS)
        self.state = 0

    def change(self) -> None:
        self.state += 1
        replace_all(self.table, self.con, some_days(0, 9, n=self.state))

    def publish(self, **options: object) -> Published:
        return publish(self.home, [Publishable(COUNTS, self.table.snapshot())], now=NOW, **options)  # type: ignore[arg-type]

    def next(self, **options: object) -> Published:
        self.change()
        return self.publish(**options)

    @property
    def seen(self) -> int:
        """The state that readers see; all rows must be of one."""
        ((rows, low, high),) = rows_of(current_path(self.home), "select count(*), min(n), max(n) from counts")
        assert (rows, low) == (10, high)
        return high


@pytest.fixture(params=["inline", "views"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """Both ways to publish a table: copied into the file, and as a view over the files of its version."""
    if request.param == "views":
        monkeypatch.setattr(room, "INLINE_ROWS", 0)
    with connection(Home(tmp_path / "home")) as con:
        yield Shop(tmp_path / "home", con)


def test_readers_see_the_version_that_was_published_last(shop: Shop) -> None:
    assert [shop.next().version for _ in range(3)] == [1, 2, 3]
    shop.change()
    assert (shop.seen, current_version(shop.home)) == (3, 3)


def test_publishing_again_without_a_change_does_nothing_and_says_so(shop: Shop) -> None:
    first = shop.next()
    before = current_path(shop.home).stat().st_ino
    again = shop.publish()
    assert (first.changed, again.changed, again.version) == (True, False, 1)
    assert current_path(shop.home).stat().st_ino == before


def test_a_change_of_a_table_that_is_no_reason_waits_for_the_next_version(shop: Shop) -> None:
    log = Table(shop.home.warehouse, replace(COUNTS, name="log"))

    def publish_both() -> Published:
        tables = [Publishable(COUNTS, shop.table.snapshot()), Publishable(log.spec, log.snapshot(), is_reason=False)]
        return publish(shop.home, tables, now=NOW)

    shop.change()
    assert publish_both().version == 1
    replace_all(log, shop.con, some_days(0, 3, n=1))
    again = publish_both()
    assert (again.changed, again.version) == (False, 1)
    shop.change()
    assert publish_both().version == 2
    assert rows_of(current_path(shop.home), "select count(*) from log") == [(4,)]


def test_a_failing_check_leaves_the_published_version_and_shows_the_row(shop: Shop) -> None:
    shop.next()
    with pytest.raises(PublishRefused, match=r"no state is 2: found \(2,\)"):
        shop.next(checks=[("no state is 2", "select distinct n from counts where n = 2")])
    assert (shop.seen, versions(shop.home)) == (1, [1])
    assert [path.name for path in shop.home.versions.iterdir()] == ["v1.duckdb"]
    assert shop.next().version == 2


def test_a_publish_that_fails_in_the_middle_leaves_the_published_version(shop: Shop) -> None:
    shop.next()
    shop.change()
    broken = Publishable(COUNTS, shop.table.snapshot(), select="select * from nowhere")
    with pytest.raises(duckdb.Error):
        publish(shop.home, [broken], now=NOW)
    assert (shop.seen, versions(shop.home)) == (1, [1])


def test_the_published_file_cannot_be_written(shop: Shop) -> None:
    published_file = shop.next().path
    assert current_path(shop.home).stat().st_mode & 0o777 == 0o444
    with published(published_file) as con, pytest.raises(duckdb.Error, match="read-only"):
        con.execute("create table mine as select 1")


def test_a_rollback_shows_the_older_version_and_holds_publishing_until_it_is_released(shop: Shop) -> None:
    shop.next()
    shop.next()
    assert rollback(shop.home, None, now=NOW, reason="wrong prices") == 1
    assert (shop.seen, current_version(shop.home)) == (1, 1)
    with pytest.raises(PublishRefused, match=r"held since a rollback \(wrong prices\)"):
        shop.next()
    assert shop.seen == 1
    released = shop.publish(release=True)
    assert (released.version, shop.seen) == (3, 3)
    assert shop.next().version == 4


def test_what_readers_got_is_known_for_every_publish_and_rollback(shop: Shop) -> None:
    first, second = shop.next(), shop.next()
    rollback(shop.home, None, now=NOW, reason="wrong prices")
    shown = [(publication.version, publication.table_versions) for publication in publications(shop.home)]
    assert shown == [(1, first.table_versions), (2, second.table_versions), (1, first.table_versions)]


def test_a_release_without_a_change_publishes_a_new_version_of_the_newest_state(shop: Shop) -> None:
    shop.next()
    shop.next()
    rollback(shop.home, 1, now=NOW, reason="by mistake")
    assert (shop.publish(release=True).version, shop.seen) == (3, 2)


def test_a_rollback_to_what_is_not_there_says_what_is(shop: Shop) -> None:
    with pytest.raises(UserError, match="nothing is published yet"):
        rollback(shop.home, None, now=NOW, reason="")
    shop.next()
    with pytest.raises(UserError, match="version 1 is the oldest"):
        rollback(shop.home, None, now=NOW, reason="")
    with pytest.raises(UserError, match="version 7 is not kept; choose one of 1"):
        rollback(shop.home, 7, now=NOW, reason="")
    with pytest.raises(UserError, match="readers see already"):
        rollback(shop.home, 1, now=NOW, reason="")
    assert shop.seen == 1


def test_only_the_declared_number_of_versions_is_kept(shop: Shop) -> None:
    for _ in range(5):
        shop.next(keep=3)
    assert versions(shop.home) == [3, 4, 5]


def test_the_version_that_readers_see_is_kept_however_old(shop: Shop) -> None:
    """After a rollback the current version is not among the newest when others follow it."""
    for _ in range(3):
        shop.next(keep=3)
    rollback(shop.home, 1, now=NOW, reason="")
    sweep(shop.home, [COUNTS])
    assert shop.seen == 1
    for _ in range(3):
        shop.next(keep=3, release=True)
        assert shop.seen == shop.state


def test_an_open_reader_keeps_its_version_through_publish_and_sweep(shop: Shop) -> None:
    shop.next()
    with published(current_path(shop.home)) as reader:
        for _ in range(3):
            shop.next(keep=5)
            sweep(shop.home, [COUNTS])
            assert reader.execute("select count(*), min(n), max(n) from counts").fetchall() == [(10, 1, 1)]
    assert shop.seen == 4


def test_every_kept_version_stays_readable_after_a_sweep_and_others_do_not_hold_files(shop: Shop) -> None:
    for _ in range(4):
        shop.next(keep=2)
    sweep(shop.home, [COUNTS])
    for number in versions(shop.home):
        assert rows_of(version_path(shop.home, number), "select distinct n from counts") == [(number,)]
    files = 1 if room.INLINE_ROWS else 2
    assert len(list(shop.table.path.glob("*.parquet"))) == files


def test_version_numbers_are_never_given_twice(shop: Shop) -> None:
    for _ in range(3):
        shop.next()
    for path in shop.home.versions.iterdir():
        path.unlink()
    assert shop.next().version == 4


def test_a_history_that_was_cut_off_by_a_kill_is_read_and_written_on(shop: Shop) -> None:
    shop.next()
    log = shop.home.published / "history.ndjson"
    log.write_bytes(log.read_bytes() + b'{"action": "publi')
    assert shop.next().version == 2
    assert [entry["version"] for entry in history(shop.home)] == [1, 2]


@pytest.mark.parametrize(
    "line",
    [
        b"7",
        b"null",
        b"[]",
        b"{}",
        b'{"action": "publish"}',
        b'{"action": "publish", "version": 9}',
        b'{"action": "rollback", "version": 9}',
        b'{"action": "else", "version": 9}',
        b"\xff\xfe",
    ],
)
def test_a_line_of_the_history_that_is_no_entry_stops_nothing(shop: Shop, line: bytes) -> None:
    first = shop.next()
    with (shop.home.published / "history.ndjson").open("ab") as log:
        log.write(line + b"\n")
    assert [entry["version"] for entry in history(shop.home)] == [1]
    assert shop.publish() == replace(first, changed=False)
    assert shop.next().version == 2
    assert rollback(shop.home, None, now=NOW, reason="") == 1


def test_a_rollback_without_a_reason_holds_too(shop: Shop) -> None:
    shop.next()
    shop.next()
    rollback(shop.home, None, now=NOW, reason="")
    with pytest.raises(PublishRefused, match="held since a rollback"):
        shop.next()
    assert shop.seen == 1


def test_a_rollback_killed_before_the_swap_holds_and_can_be_repeated(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.next()
    shop.next()
    with monkeypatch.context() as patch:
        patch.setattr(room, "_swap", killed)
        with pytest.raises(Killed):
            rollback(shop.home, None, now=NOW, reason="wrong")
    with pytest.raises(PublishRefused, match="wrong"):
        shop.publish()
    assert rollback(shop.home, None, now=NOW, reason="wrong") == 1
    assert shop.seen == 1
    assert shop.next(release=True).version == 3


def test_a_version_whose_file_somebody_removed_is_published_anew(shop: Shop) -> None:
    version_path(shop.home, shop.next().version).unlink()
    assert shop.publish().version == 2
    assert shop.seen == 1


def test_a_sweep_in_a_home_that_was_moved_keeps_what_its_versions_read(shop: Shop, tmp_path: Path) -> None:
    """Moved back, they are readable again."""
    shop.next()
    shop.change()
    shutil.move(shop.home.root, tmp_path / "moved")
    sweep(Home(tmp_path / "moved"), [COUNTS])
    shutil.move(tmp_path / "moved", shop.home.root)
    assert shop.seen == 1


def test_a_rollback_does_not_show_files_of_the_place_where_the_data_home_was(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "INLINE_ROWS", 0)
    shop.next()
    shop.change()
    shop.next()
    moved = Home(tmp_path / "moved")
    shutil.move(shop.home.root, moved.root)
    with pytest.raises(UserError, match="version 1 names files of another place"):
        rollback(moved, None, now=NOW, reason="wrong")


def test_a_sweep_does_not_need_the_versions_that_the_log_has_forgotten(shop: Shop) -> None:
    """The log of a table forgets a version a month after it was replaced; a published file may be kept for longer."""
    shop.next()
    log = shop.table.path / "_delta_log"
    for _ in range(25):
        shop.change()
    for entry in log.iterdir():
        os.utime(entry, (1_600_000_000, 1_600_000_000))
    for _ in range(25):
        shop.change()
    assert not (log / "00000000000000000001.json").exists()
    sweep(shop.home, [COUNTS], {COUNTS.name: {1}})
    assert shop.seen == 1
    assert shop.next().version == 2


def test_a_publish_killed_between_the_swap_and_the_history_is_followed_by_a_sound_one(shop: Shop) -> None:
    shop.next()
    log = shop.home.published / "history.ndjson"
    before = log.read_bytes()
    shop.next()
    log.write_bytes(before)
    assert shop.seen == 2
    assert shop.publish().version == 3
    assert shop.seen == 2


def test_a_publish_killed_before_the_swap_is_followed_by_a_sound_one(shop: Shop) -> None:
    shop.next()
    (shop.home.versions / "v2.staged").write_text("half written")
    (shop.home.published / ".analytics.duckdb.new").write_text("half linked")
    assert shop.next().version == 2
    assert shop.seen == 2


def test_a_moved_home_is_readable_after_the_next_publish(shop: Shop, tmp_path: Path) -> None:
    shop.next()
    shutil.move(shop.home.root, tmp_path / "moved")
    moved = Shop(tmp_path / "moved", shop.con)
    moved.publish()
    assert moved.seen == 1


def test_a_copied_home_does_not_read_from_the_first_one(shop: Shop, tmp_path: Path) -> None:
    """A backup that is restored must not show the files of the home it was taken from, which may change or go."""
    shop.next()
    copied = Shop(shutil.copytree(shop.home.root, tmp_path / "copied"), shop.con)
    copied.publish()
    shutil.rmtree(shop.home.root)
    assert copied.seen == 1


def test_the_published_table_lists_version_time_and_rows(shop: Shop) -> None:
    path = shop.next().path
    listed = rows_of(path, 'select "table", version, published_at, rows from published_tables')
    assert listed == [("counts", 1, NOW, 10)]


def test_hostile_names_are_quoted_in_the_published_file(shop: Shop) -> None:
    shop.change()
    name = 'x"; drop table published_tables; --'
    spec = replace(COUNTS, name=name, comment="it's; drop")
    publish(shop.home, [Publishable(spec, replace(shop.table.snapshot(), spec=spec), shop.table.snapshot().select())], now=NOW)
    assert rows_of(current_path(shop.home), 'select "table" from published_tables') == [(name,)]


def test_events_are_published_without_the_columns_of_the_warehouse(retail: Retail) -> None:
    columns = [name for name, *_ in rows_of(retail.published, "describe events")]
    assert columns == [name for name in EVENTS.column_names if name != "message_key"]
