"""A backup can be restored and served, without those who were erased since; the drill that shows it touches nothing else."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from shutil import copytree

import dagster as dg
import pytest

from analytics_assets.backups import back_up, drill, forget_old
from analytics_assets.defs.drill import restore_drill
from analytics_assets.defs.resources import PipelineResource
from analytics_assets.erasure.probe import probe
from analytics_assets.settings import ConfigError, Limits, StorageRules, UserError
from analytics_assets.warehouse.backup import Backup, newest
from analytics_assets_tests.builders import Line, rows_of
from analytics_assets_tests.conftest import made_once
from analytics_assets_tests.test_erasure import CANARIES, SHE, copied, make_shop, stored_as


@pytest.fixture
def line(
    keys: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Line]:
    """The shop in which Anna stands everywhere, and a place for backups."""
    shop = made_once(tmp_path_factory, "erasure-shop", lambda folder: make_shop(folder, pseudonyms=True))
    monkeypatch.setenv("ANALYTICS_BACKUPS", str(tmp_path / "backups"))
    with copied(shop, keys, tmp_path / "shop") as line:
        yield line


@pytest.fixture
def backup(line: Line) -> Backup:
    return back_up(line.pipeline, line.now)


def content(*folders: Path) -> dict[str, str]:
    """Every file below, but scratch space."""
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file() and "work" not in path.parts)
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_restored_backup_is_served_without_those_who_were_erased_since(line: Line, backup: Backup, tmp_path: Path) -> None:
    """Nothing of the data home, of its keys and its ledger changes, and nothing of her is left where it was restored."""
    settings, left = line.pipeline.settings, list[object]()
    texts = [*CANARIES, *stored_as(line, *CANARIES)]
    line.pipeline.erasures.ask([SHE], "tester")
    before = content(line.home, settings.keys, backup.path)

    def say(text: str) -> None:
        if text == "removing the copy":
            (home,) = backup.path.parent.glob(".partial-*/home")
            shown = rows_of(home / "published" / "analytics.duckdb", "select message_id from events where tenant_id = 'acme'")
            left.extend([sorted(shown), probe(home, texts)])

    found = drill(settings, line.now + timedelta(hours=3), say)
    assert (found.fault, found.differ, found.erased, found.rpo_seconds) == (None, (), 1, 3 * 3600)
    assert found.tables == len(line.pipeline.specs) and found.rto_seconds > 0
    assert left == [[(name,) for name in ("b1", "b2", "b3", "b4", "b5")], []]
    assert content(line.home, settings.keys, backup.path) == before
    assert [path.name for path in backup.path.parent.iterdir()] == [backup.path.name]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def turn_a_bit(path: Path) -> None:
    text = bytearray(path.read_bytes())
    text[len(text) // 2] ^= 1
    path.write_bytes(text)


def add(path: Path) -> None:
    path.with_name("of_another.parquet").touch()


@pytest.mark.parametrize(
    ("damage", "place", "name"),
    [
        (cut, "warehouse/sessions/*.parquet", "sessions"),
        (turn_a_bit, "warehouse/sessions/_delta_log/*0.json", "sessions"),
        (Path.unlink, "received/acme/*", "received/"),
        (add, "warehouse/events/*.parquet", "events"),
    ],
)
def test_what_is_not_as_it_was_is_named_and_nothing_is_published(
    line: Line, backup: Backup, damage: Callable[[Path], None], place: str, name: str
) -> None:
    damage(next((backup.path / "home").glob(place)))
    found = drill(line.pipeline.settings, line.now)
    assert (found.differ, found.fault) == ((name,), f"not as they were when the backup was taken: {name}")


def test_a_table_that_has_other_rows_than_it_had_fails_too(line: Line, backup: Backup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the list itself was taken of another state."""
    of_another = replace(backup, tables={**backup.tables, "events": 1})
    monkeypatch.setattr("analytics_assets.backups.newest", lambda folder: of_another)
    assert drill(line.pipeline.settings, line.now).differ == ("events",)


def test_the_job_fails_with_the_sentence_and_keeps_the_numbers(
    line: Line, backup: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn_a_bit(next((backup.path / "home").glob("warehouse/sessions/*.parquet")))
    monkeypatch.setenv("ANALYTICS_CONFIG", str(line.pipeline.settings.config))
    resources = {"pipeline": PipelineResource(home=str(line.home))}
    with dg.DagsterInstance.ephemeral() as instance:
        done = restore_drill.execute_in_process(instance=instance, resources=resources, raise_on_error=False)
        (event,) = instance.fetch_materializations(dg.AssetKey("restore_drill"), limit=1).records
    assert not done.success
    assert "could not be restored: not as they were" in str(done.all_events)
    assert event.asset_materialization is not None
    told = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert (told["restored"], told["differ"], told["backup"]) == (False, 1, backup.path.name)


def test_the_newest_backup_is_the_one_and_what_a_killed_one_left_goes(line: Line, backup: Backup, tmp_path: Path) -> None:
    left = tmp_path / "backups" / ".partial-20260101T000000Z-1"
    (left / "home").mkdir(parents=True)
    later = back_up(line.pipeline, line.now + timedelta(days=1))
    found = newest(tmp_path / "backups")
    assert (found, left.exists()) == (later, False)
    with pytest.raises(UserError, match="is there already"):
        back_up(line.pipeline, line.now)


def test_only_so_many_are_kept_and_those_of_another_data_home_stay(line: Line, backup: Backup) -> None:
    """The one just taken stays too, if the clock was set back."""
    folder, now = backup.path.parent, line.now
    others = folder / "20200101T000000Z"
    copytree(backup.path, others)
    said = json.loads((others / "backup.json").read_text())
    (others / "backup.json").write_text(json.dumps({**said, "of": "/another/home"}))
    copytree(backup.path, folder / "before the move")
    line.pipeline.settings.__dict__["limits"] = Limits(storage=StorageRules(keep_backups=2))
    second, third = (back_up(line.pipeline, now + timedelta(days=days)) for days in (1, 2))
    assert forget_old(line.pipeline, third) == [backup.path.name]
    set_back = back_up(line.pipeline, now - timedelta(days=1))
    assert forget_old(line.pipeline, set_back) == []
    kept = {"20200101T000000Z", "before the move", second.path.name, third.path.name, set_back.path.name}
    assert {path.name for path in folder.iterdir()} == kept
    assert newest(folder) == third


def test_without_a_place_or_a_backup_a_sentence_says_what_to_do(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = line.pipeline.settings
    with pytest.raises(UserError, match=r"there is no backup in .*; take one with `analytics backup`"):
        drill(settings, line.now)
    for place in (line.home / "backups", line.home.parent, settings.keys):
        monkeypatch.setenv("ANALYTICS_BACKUPS", str(place))
        with pytest.raises(ConfigError, match="backups must lie apart from"):
            drill(settings, line.now)
    monkeypatch.delenv("ANALYTICS_BACKUPS")
    with pytest.raises(ConfigError, match="name a folder in ANALYTICS_BACKUPS"):
        drill(settings, line.now)
