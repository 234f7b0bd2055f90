"""Erasure: people leave everything under the data home, nobody else does, and the receipt says what went."""

import gzip
import json
import resource
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from decimal import Decimal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from analytics_assets.audit.outside import Outside
from analytics_assets.erasure import versions as of_versions
from analytics_assets.erasure.erasures import Erasures, NotRemoved
from analytics_assets.erasure.logs import mask_logs
from analytics_assets.erasure.passes import Passes
from analytics_assets.erasure.probe import probe
from analytics_assets.erasure.stores import Stores
from analytics_assets.erasure.versions import remove_versions
from analytics_assets.events.intake import BatchReport
from analytics_assets.events.rewrite import replace_identifiers
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.events.values import Values
from analytics_assets.landing import Landed
from analytics_assets.outgoing import RoleFilesFailed
from analytics_assets.pipeline import Pipeline
from analytics_assets.privacy import receipts, role_files
from analytics_assets.privacy.ledger import Person
from analytics_assets.privacy.pseudonyms import IDENTIFIERS
from analytics_assets.sessions.tables import IDENTITIES, PAGE_VIEWS, SESSIONS, USERS
from analytics_assets.settings import UserError
from analytics_assets.sources.redact import Redacted, redact_file
from analytics_assets.sources.text import kept_bytes
from analytics_assets.warehouse.publish import current_path, current_version, has_readers, rollback, version_path, versions
from analytics_assets_tests.builders import Line, a_config, an_event, at, published, rows_of, write_events
from analytics_assets_tests.conftest import made_once
from analytics_assets_tests.faults import FORK, ROUNDS, die, process, run
from analytics_assets_tests.test_faults import observed

# What nothing else looks like.
ANNA, HER_PHONE, HER_OTHER, HER_MAIL = "anna-canary-1", "phone-canary-2", "anna-old-canary-3", "anna@canary.test"
CANARIES = [ANNA, HER_PHONE, HER_OTHER, HER_MAIL]
SHE = Person("acme", "user", ANNA)
TABLES = (EVENTS, REJECTED, IDENTIFIERS, SESSIONS, PAGE_VIEWS, USERS, IDENTITIES)


def of_anna(message_id: str, **changes: Any) -> dict[str, Any]:
    return an_event(message_id, **{"user_id": ANNA, "anonymous_id": HER_PHONE, **changes})


def of_ben(message_id: str, **changes: Any) -> dict[str, Any]:
    return an_event(message_id, **{"user_id": "ben-the-other", "anonymous_id": "bens-device", **changes})


DELIVERY: list[dict[str, Any] | str] = [
    of_anna("a1", timestamp=at(1)),
    of_anna("a2", timestamp=at(2), user_id=None),
    of_anna("a3", timestamp=at(3), type="alias", user_id=ANNA, properties={"previousId": HER_OTHER}),
    of_anna("a4", timestamp=at(4), user_id=HER_OTHER, anonymous_id=None, context={"traits": {"email": HER_MAIL}}),
    of_anna("a5", timestamp=at(5, day=-3), revenue="9.90"),
    # Ben used her phone once, and named her.
    of_ben("b1", timestamp=at(1, day=-1), anonymous_id=HER_PHONE),
    of_ben("b2", timestamp=at(6), context={"traits": {"id": ANNA, "plan": "free"}}),
    of_ben("b3", timestamp=at(7), revenue="2.50"),
    # Later she used it again.
    of_anna("r1", timestamp="no time"),
    of_ben("r2", timestamp="no time"),
    f'{{"message_id": "r3", "user_id": "{ANNA}", broken',
]


def land(line: Line, records: list[dict[str, Any] | str], name: str = "day.ndjson", tenant: str = "acme") -> None:
    path = line.home / "landing" / tenant / name
    write_events(path, records)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    line.pipeline.load_landed(line.con, Landed(path, tenant, "canonical"), line.now)


def renew(line: Line) -> None:
    line.rebuild()
    line.publish()


def make_shop(folder: Path, *, pseudonyms: bool) -> None:
    """A data home in which Anna stands everywhere."""
    config = a_config(folder / "config", pseudonyms=pseudonyms)
    with Line.at(folder / "home", config) as line:
        land(line, DELIVERY, "day.ndjson.gz")
        renew(line)
        line.load([of_ben(name, timestamp=at(9)) for name in ("b4", "b5")])
        line.load([of_anna("a6", timestamp=at(9)), of_ben("g1", tenant_id="globex")])
        shutil.rmtree(line.home / "deliveries")
        aside = line.home / "set_aside" / "acme" / "x.csv"
        aside.parent.mkdir(parents=True)
        aside.write_text(f"garbage\n{ANNA},1\nof others\n")
        log = line.home / "dagster" / "note.log"
        log.parent.mkdir(parents=True)
        log.write_text(f"could not load {HER_MAIL}\n")
        renew(line)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "erasure-shop", lambda folder: make_shop(folder, pseudonyms=True))


@pytest.fixture(scope="session")
def erased(shop: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop after her erasure, with keys and ledger beside it."""

    def make(folder: Path) -> None:
        with copied(shop, keys, folder) as line:
            erase(line, SHE)

    return made_once(tmp_path_factory, "erased-shop", make)


@contextmanager
def copied(shop: Path, keys: Path, folder: Path) -> Iterator[Line]:
    """A copy of a shop with keys and a ledger of its own: copies of a data home are the same one to a ledger."""
    shutil.copytree(shop / "home", folder / "home")
    shutil.copytree(shop / "config", folder / "config")
    shutil.copytree(keys, folder / "keys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANALYTICS_KEYS", str(folder / "keys"))
        with Line.at(folder / "home", folder / "config") as line:
            line.pipeline.clock = lambda: line.now
            yield line


@pytest.fixture
def line(shop: Path, keys: Path, tmp_path: Path) -> Iterator[Line]:
    with copied(shop, keys, tmp_path / "shop") as line:
        yield line


@pytest.fixture
def after(erased: Path, tmp_path: Path) -> Iterator[Line]:
    with copied(erased, erased / "keys", tmp_path / "shop") as line:
        yield line


def erase(line: Line, *people: Person) -> dict[str, Any]:
    erasures = line.pipeline.erasures
    request = erasures.ask(people, "tester")
    erasures.remove(line.con, line.now, hints=people)
    renew(line)
    return receipt(line, request.id)


def receipt(line: Line, request: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(line.pipeline.erasures.ledger.receipt_path(request).read_text())
    return said


def messages(line: Line, tenant: str = "acme") -> list[str]:
    asked = f"select message_id from events where tenant_id = '{tenant}' order by 1"
    return [row[0] for row in rows_of(current_path(line.pipeline.home), asked)]


def stored_as(line: Line, *values: str) -> list[str]:
    """What stands for values of acme in its tables, where that is something else."""
    pseudonyms = line.pipeline.pseudonyms
    known = "acme" in pseudonyms.in_use.tenants()
    return [pseudonyms.pseudonym("acme", value) for value in values] if known else []


@pytest.fixture(params=["pseudonyms", "in clear"])
def any_shop(request: pytest.FixtureRequest, shop: Path, keys: Path, tmp_path: Path) -> Iterator[Line]:
    of = shop
    if request.param == "in clear":
        make_shop(of := tmp_path / "in clear", pseudonyms=False)
    with copied(of, keys, tmp_path / "shop") as line:
        yield line


def test_a_person_leaves_every_file_and_nobody_else_does(any_shop: Line) -> None:
    line = any_shop
    texts = [*CANARIES, *stored_as(line, *CANARIES)]
    assert {trace.text for trace in probe(line.home, texts)} == set(texts)
    said = erase(line, SHE, Person("globex", "user", "ben-the-other"))
    assert probe(line.home, texts) == []
    assert messages(line) == ["b1", "b2", "b3", "b4", "b5"]
    # Ben of another tenant is somebody else.
    assert messages(line, "globex") == []
    assert (said["people"], said["found"], said["unknown"]) == (2, 2, [])
    counts = {store["store"]: (store["gone"], store["changed"]) for store in said["stores"]}
    assert counts["events"] == (7, 2)
    assert counts["rejected_events"] == (2, 0)
    assert counts["received"] == (7, 2)
    assert counts["set_aside"] == (1, 0)
    assert counts["logs"][1] == 1
    # What was summed over her is what is left.
    path = current_path(line.pipeline.home)
    assert rows_of(path, "select sum(revenue) from revenue_daily") == [(Decimal("2.50"),)]
    assert rows_of(path, "select sum(events), sum(received - rejected - duplicates) from batches") == [(5, 5)]
    assert rows_of(path, "select count(*) from users") == [(1,)]
    # What Ben said of himself stays.
    (context,) = rows_of(path, "select context from events where message_id = 'b2'")
    assert json.loads(context[0]) == {"traits": {"plan": "free"}}
    left = gzip.decompress(next((line.home / "received" / "acme").iterdir()).read_bytes()).splitlines()
    assert [json.loads(text)["message_id"] for text in left] == ["b1", "b2", "b3", "r2"]
    assert [json.loads(raw)["message_id"] for (raw,) in line.rows(REJECTED, columns="raw")] == ["r2"]


def test_a_receipt_that_was_changed_is_none(after: Line) -> None:
    (path,) = (after.home / "privacy" / "receipts").iterdir()
    outside = Outside(after.pipeline.settings.keys)
    assert receipts.read(path, outside)["found"] == 1
    path.write_text(path.read_text().replace('"found": 1', '"found": 2'))
    with pytest.raises(UserError, match="was changed"):
        receipts.read(path, outside)


def test_of_an_unknown_person_the_receipt_says_that_nothing_was_found(line: Line) -> None:
    before, version = {spec.name: line.digest(spec) for spec in TABLES}, current_version(line.pipeline.home)
    erasures = line.pipeline.erasures
    request = erasures.ask([Person("acme", "user", "nobody-at-all")], "tester")
    assert erasures.remove(line.con, line.now)
    assert [one.id for one in erasures.finish(line.con)] == [request.id]
    said = receipt(line, request.id)
    assert (said["found"], len(said["unknown"]), [store for store in said["stores"] if store["gone"]]) == (0, 1, [])
    assert {spec.name: line.digest(spec) for spec in TABLES} == before
    assert current_version(line.pipeline.home) == version


def test_what_comes_late_of_an_erased_person_is_not_stored_and_who_comes_back_is_somebody_new(after: Line) -> None:
    line = after
    texts = [*CANARIES, *stored_as(line, *CANARIES)]
    land(
        line,
        [of_anna("a9", timestamp=at(20)), of_ben("b9", timestamp=at(20)), of_anna("r9", timestamp="no time")],
        "late.ndjson",
    )
    renew(line)
    assert probe(line.home, texts) == []
    assert messages(line) == ["b1", "b2", "b3", "b4", "b5", "b9"]
    told = line.rows(BATCHES, columns="received, rejected, rejected_by_reason, events, file")
    assert (3, 2, '{"erased": 2}', 1, "late.ndjson") in told
    back = line.now + timedelta(days=3)
    line.now = back + timedelta(hours=1)
    line.load([of_anna("a10", timestamp=back, received_at=back)])
    renew(line)
    assert messages(line)[0] == "a10"


def test_a_backup_of_before_is_not_published_until_the_erasures_are_done_again(line: Line, tmp_path: Path) -> None:
    shutil.copytree(line.home, tmp_path / "backup")
    asked = erase(line, SHE)["erasure"]
    done = {spec.name: line.digest(spec) for spec in TABLES}
    shutil.rmtree(line.home)
    shutil.copytree(tmp_path / "backup", line.home)
    texts = [*CANARIES, *stored_as(line, *CANARIES)]
    with Line.at(line.home, line.pipeline.settings.config) as again:
        assert probe(again.home, texts) != []
        with pytest.raises(NotRemoved, match="1 request for erasure still waits"):
            again.publish()
        assert again.pipeline.erasures.remove(again.con, again.now)
        renew(again)
        assert probe(again.home, texts) == []
        assert {spec.name: again.digest(spec) for spec in TABLES} == done
        assert receipt(again, asked)["found"] == 1


def test_the_ledger_names_nobody(after: Line) -> None:
    text = after.pipeline.erasures.ledger.path.read_text()
    assert not [value for value in [*CANARIES, *stored_as(after, *CANARIES)] if value in text]


def test_where_there_is_no_room_for_the_ledger_nobody_is_asked_for(line: Line) -> None:
    Outside(line.pipeline.settings.keys).key_to_seal(None)
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, largest[1]))
    try:
        with pytest.raises(UserError, match=r"erasures-.*cannot be written .*make room"):
            line.pipeline.erasures.ask([SHE], "tester")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, largest)
    assert line.pipeline.erasures.ledger.requests() == []
    asked = line.pipeline.erasures.ask([SHE], "tester")
    assert [request.id for request in line.pipeline.erasures.waiting()] == [asked.id]


def test_without_its_key_nothing_is_loaded_or_published_and_nothing_is_lost(after: Line) -> None:
    line = after
    shutil.rmtree(line.home / "privacy" / "receipts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Outside, "key", lambda *_: None)
        with Line.at(line.home, line.pipeline.settings.config) as other:
            with pytest.raises(UserError, match="put its backup back"):
                other.load([of_ben("b9", timestamp=at(20))])
            with pytest.raises(UserError, match="put its backup back"):
                other.pipeline.erasures.remove(other.con, other.now)
            with pytest.raises(NotRemoved):
                other.publish()
    assert messages(line) == ["b1", "b2", "b3", "b4", "b5"]


def test_many_requests_are_one_pass(line: Line) -> None:
    erasures = line.pipeline.erasures
    first = erasures.ask([SHE], "one")
    second = erasures.ask([Person("acme", "device", "bens-device")], "another")
    erasures.remove(line.con, line.now)
    versions_before = current_version(line.pipeline.home)
    renew(line)
    assert current_version(line.pipeline.home) == (versions_before or 0) + 1
    assert messages(line) == []
    assert receipt(line, first.id)["together_with"] == [second.id]
    assert [row[0] for row in line.rows(BATCHES, columns="status")].count("erased") == 1


def test_who_is_asked_for_while_another_pass_waits_for_its_publish_goes_with_the_same_publish(line: Line) -> None:
    erasures = line.pipeline.erasures
    first = erasures.ask([SHE], "one")
    remove(line)
    second = erasures.ask([Person("acme", "user", "ben-the-other")], "another")
    with pytest.raises(NotRemoved, match="1 request for erasure still waits"):
        line.publish()
    remove(line)
    renew(line)
    assert messages(line) == []
    assert [receipt(line, request.id)["found"] for request in (first, second)] == [1, 1]


# What else happens to files, names and versions meanwhile


def in_received(line: Line) -> set[str]:
    """Which of her names stand in files as they came."""
    return {trace.text for trace in probe(line.home, CANARIES) if trace.file.startswith(("received", "landing"))}


def test_a_file_of_before_that_is_sent_again_is_kept_without_their_records(after: Line, shop: Path) -> None:
    (came,) = (shop / "home" / "received" / "acme").iterdir()
    again = after.home / "landing" / "acme" / "again.ndjson.gz"
    again.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(came, again)
    assert after.pipeline.load_landed(after.con, Landed(again, "acme", "canonical"), after.now).known_before
    assert not again.exists()
    (kept,) = (after.home / "received" / "acme").glob("*-again.ndjson.gz")
    records = [text for text in gzip.decompress(kept.read_bytes()).splitlines() if text.endswith(b"}")]
    assert [json.loads(text)["message_id"] for text in records] == ["b1", "b2", "b3", "r2"]


def test_an_erasure_between_the_load_of_a_file_and_its_move_reaches_the_file(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any) -> BatchReport:
        report = Pipeline.load(line.pipeline, *arguments)
        line.pipeline.erasures.ask([SHE], "tester")
        remove(line)
        return report

    monkeypatch.setattr(line.pipeline, "load", load)
    land(line, [of_anna("a9", timestamp=at(20)), of_ben("b9", timestamp=at(20))], "new.ndjson")
    assert in_received(line) == set()
    assert "b9" in next((line.home / "received" / "acme").glob("*-new.ndjson")).read_text()


def test_pseudonyms_that_are_made_anew_half_way_do_not_save_anybody(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.pipeline.erasures.ask([SHE], "tester")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Stores, "remove", interrupted)
        remove(line)
    replace_identifiers(line.pipeline.intake, line.con, "acme", line.now)
    remove(line)
    assert line.rows(EVENTS, columns="message_id") == [(f"b{n}",) for n in range(1, 6)] + [("g1",)]
    assert not set(CANARIES) & {value for (value,) in line.rows(IDENTIFIERS, columns="value")}


@pytest.mark.long
def test_pseudonyms_that_are_made_anew_bring_nobody_back_and_who_goes_after_that_leaves_no_older_name(after: Line) -> None:
    line, known = after, [*CANARIES, "ben-the-other", "bens-device"]
    older = stored_as(line, *known)
    replace_identifiers(line.pipeline.intake, line.con, "acme", line.now)
    renew(line)
    land(line, DELIVERY, "again.ndjson")
    renew(line)
    assert messages(line) == ["b1", "b2", "b3", "b4", "b5"]
    # Ben, by the pseudonym that somebody wrote down before.
    assert erase(line, Person("acme", "user", older[-2]))["found"] == 1
    newer = stored_as(line, *known)
    assert set(older).isdisjoint(newer) and probe(line.home, [*CANARIES, *older, *newer]) == []
    assert (messages(line), messages(line, "globex")) == ([], ["g1"])


def erase_without_room(home: Path, config: Path, room: int, said: Connection) -> None:
    with Line.at(home, config) as line:
        line.pipeline.clock = lambda: line.now
        # As on a full disk, a write fails in the middle of a file.
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        try:
            erase(line, SHE)
            said.send("done")
        except Exception as error:
            said.send(str(error))


@pytest.mark.long
@pytest.mark.parametrize("room", [3_000, 20_000, 400_000], ids=["events", "marts", "publish"])
def test_a_disk_that_is_full_half_way_shows_readers_what_they_had_and_with_room_it_goes_on(line: Line, room: int) -> None:
    shown, texts = messages(line), [*CANARIES, *stored_as(line, *CANARIES)]
    hear, say = FORK.Pipe(duplex=False)
    child = process(erase_without_room, line.home, line.pipeline.settings.config, room, say)
    child.start()
    assert "File too large" in hear.recv()
    child.join()
    assert messages(line) == shown and len(line.pipeline.erasures.ledger.pending()) == 1
    with Line.at(line.home, line.pipeline.settings.config) as again:
        again.pipeline.clock = lambda: again.now
        again.pipeline.erasures.remove(again.con, again.now)
        renew(again)
        assert again.pipeline.erasures.ledger.pending() == [] and probe(line.home, texts) == []
        assert messages(again) == ["b1", "b2", "b3", "b4", "b5"]


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_who_comes_back_before_their_erasure_is_done_keeps_their_name(line: Line) -> None:
    line.pipeline.erasures.ask([SHE], "tester")
    back = line.now + timedelta(days=1)
    line.now = back + timedelta(hours=1)
    line.load([of_anna("new", timestamp=back, received_at=back)])
    remove(line)
    bearing = [(row["user_id"], row["anonymous_id"]) for row in line.dicts(EVENTS) if row["message_id"] == "new"]
    assert bearing == [tuple(stored_as(line, ANNA, HER_PHONE))]
    assert set(line.pipeline.pseudonyms.values("acme", bearing[0]).values()) == {ANNA, HER_PHONE}


def test_a_version_that_is_rolled_back_to_while_others_are_read_is_not_removed(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, before = line.pipeline.home, versions(line.pipeline.home)
    shown = current_version(home)
    assert shown

    def somebody_rolls_back(*_: Any) -> bool:
        rollback(home, None, now=line.now, reason="tested")
        return False

    monkeypatch.setattr(of_versions, "wait_for_readers", somebody_rolls_back)
    assert remove_versions(home, shown, lambda number: None) is None
    assert versions(home) == before


def test_a_file_for_a_role_that_could_not_be_made_anew_goes_before_there_is_a_receipt(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = line.pipeline.settings.config / "roles.yaml"
    role = {"purpose": "what the owner of a shop sees", "tenants": ["acme"], "tables": ["users"], "labels": ["identifier"],
            "people": True, "file": True}  # fmt: skip
    declared.write_text(yaml.safe_dump({**yaml.safe_load(declared.read_text()), "roles": {"owner": role}}))
    line.publish()
    hers = stored_as(line, ANNA)
    assert "published/roles/owner/acme.duckdb" in {trace.file for trace in probe(line.home, hers)}

    def no_space(new: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(role_files, "replace_file", no_space)
        with pytest.raises(RoleFilesFailed):
            erase(line, SHE)
    line.pipeline.erasures.finish(line.con)
    assert not line.pipeline.erasures.ledger.pending()
    assert probe(line.home, hers) == []
    line.publish()
    assert (line.home / "published" / "roles" / "owner" / "acme.duckdb").exists()


def test_without_the_newer_ledger_nothing_is_published(after: Line) -> None:
    after.pipeline.erasures.ledger.path.unlink()
    with pytest.raises(NotRemoved, match=r"1 erasure has a receipt .* put the newer ledger back"):
        after.publish()


def test_a_rejected_record_that_is_no_utf_8_goes(line: Line) -> None:
    path = line.home / "landing" / "acme" / "latin.ndjson"
    path.write_bytes(f'{{"message_id": "l1", "user_id": "{ANNA}", "event": "\xe9"}}\n'.encode("latin-1"))
    line.pipeline.load_landed(line.con, Landed(path, "acme", "canonical"), line.now)
    assert ANNA.encode() in b"".join(kept_bytes(raw) for (raw,) in line.rows(REJECTED, columns="raw"))
    line.pipeline.erasures.ask([SHE], "tester")
    remove(line)
    assert [json.loads(raw)["message_id"] for (raw,) in line.rows(REJECTED, columns="raw")] == ["r2"]


def test_who_is_only_in_rejected_records_is_found_by_whoever_goes_on(line: Line) -> None:
    hers = of_anna("x1", user_id="carla-canary", anonymous_id=None, timestamp="no time")
    line.load([hers, '{"user": "carla-canary", broken'])
    request = line.pipeline.erasures.ask([Person("acme", "user", "carla-canary")], "tester")
    shutil.rmtree(line.home / "deliveries")
    # Nobody is at hand who knows whom the request names.
    remove(line)
    renew(line)
    assert probe(line.home, ["carla-canary"]) == []
    said = receipt(line, request.id)
    assert (said["found"], [(store["store"], store["gone"]) for store in said["stores"] if store["gone"]]) == (
        1, [("rejected_events", 2)],
    )  # fmt: skip


def test_a_record_of_several_lines_goes_as_one(line: Line, tmp_path: Path) -> None:
    head = "message_id,event,timestamp,user_id,page_title"
    hers, his = f'm1,View,{at(1)},{ANNA},"one\ntwo\nthree"', f'm2,View,{at(2)},ben-the-other,"one\ntwo"'
    path = tmp_path / "page.csv"
    path.write_text("\n".join((head, hers, his, "")))
    line.pipeline.erasures.ask([SHE], "tester")
    mark = line.pipeline.erasures.forgotten.mark
    found = redact_file(line.con, path, line.pipeline.sources["canonical"], "acme", line.now, mark, Values([ANNA]))
    assert (found, path.read_text()) == (Redacted(gone=1), "\n".join((head, his, "")))


def test_what_others_keep_under_the_data_home_names_nobody_and_can_still_be_read(tmp_path: Path) -> None:
    kept = tmp_path / "exports"
    kept.mkdir()
    with closing(sqlite3.connect(kept / "runs.db")) as con:
        con.execute("pragma secure_delete = off")
        con.execute("create table log (text varchar)")
        con.executemany("insert into log values (?)", [(f"{number} of {ANNA}",) for number in range(50)])
        con.commit()
        # A row that is deleted stands in the file for a while.
        con.execute("delete from log where rowid < 50")
        con.commit()
    (kept / "old.log.gz").write_bytes(gzip.compress(f"mail {HER_MAIL} bounced\n".encode()))
    (kept / "visits.log").write_text(f"GET /?mail={quote(HER_MAIL, safe='')} {ANNA}\n")
    with duckdb.connect(str(kept / "copy.duckdb")) as con:
        con.execute(f"create table people as select '{ANNA}' as name, range as n from range(5000)")
        con.execute(f"copy people to '{kept}/hers.parquet'; copy (select 'somebody' as name) to '{kept}/others.parquet'")
    spelled = [*CANARIES, quote(HER_MAIL, safe="")]
    named = {"runs.db", "old.log.gz", "visits.log", "copy.duckdb", "hers.parquet"}
    assert {Path(trace.file).name for trace in probe(tmp_path, spelled)} == named
    noted: dict[str, Redacted] = {}
    mask_logs(tmp_path, Values(CANARIES), noted.__setitem__)
    assert probe(tmp_path, spelled) == []
    assert {path.name for path in kept.iterdir()} == {"runs.db", "old.log.gz", "visits.log", "others.parquet"}
    assert noted["exports/hers.parquet"] == Redacted(gone=1)
    assert gzip.decompress((kept / "old.log.gz").read_bytes()) == f"mail {'*' * len(HER_MAIL)} bounced\n".encode()


# Killed


@contextmanager
def told(at_step: Callable[[str], None]) -> Iterator[None]:
    """Say each step that changes what is on disk for good, and each note of the pass, before it is done."""

    def noting(passes: Passes, store: str, *arguments: Any, **said: Any) -> None:
        at_step(f"note {store}")
        note(passes, store, *arguments, **said)

    note = Passes.note
    with observed(at_step), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Passes, "note", noting)
        yield


def remove(line: Line) -> None:
    line.pipeline.erasures.remove(line.con, line.now)


def finish(line: Line) -> None:
    line.pipeline.erasures.finish(line.con)


def killed_at(step: str, home: Path, config: Path, stage: Callable[[Line], None]) -> None:
    with Line.at(home, config) as line, told(lambda name: die() if name == step else None):
        stage(line)


def test_killed_at_each_step_and_begun_again_the_end_is_the_same(shop: Path, tmp_path: Path, keys: Path) -> None:
    """The rebuild and the publish between the two are those of every day, and killed elsewhere."""
    killed, steps = tmp_path / "killed", dict[str, list[str]]()
    with copied(shop, keys, tmp_path / "whole") as line, pytest.MonkeyPatch.context() as patch:
        asked = line.pipeline.erasures.ask([SHE], "tester").id
        patch.setattr(Erasures, "finish", lambda *_, **__: [])
        for stage in (remove, renew):
            with told(steps.setdefault(stage.__name__, []).append):
                stage(line)
        patch.undo()
        with told(steps.setdefault("finish", []).append):
            finish(line)
        expected, counts = {spec.name: line.digest(spec) for spec in TABLES}, receipt(line, asked)
        texts = [*CANARIES, *stored_as(line, *CANARIES)]
    with copied(shop, keys, killed) as line:
        again = line.pipeline.erasures.ask([SHE], "tester").id
        for stage in (remove, finish):
            found = list(dict.fromkeys(steps[stage.__name__]))
            for step in found if ROUNDS > 1 else found[::2]:
                code = run(killed_at, step, line.home, killed / "config", stage)
                assert code == -signal.SIGKILL, step
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Erasures, "finish", lambda *_, **__: [])
                if stage is remove:
                    remove(line)
                    renew(line)
        finish(line)
        assert {spec.name: line.digest(spec) for spec in TABLES} == expected
        assert probe(line.home, texts) == []
        said = receipt(line, again)
    assert {"commit events", "commit rejected_events", "commit identifiers", "note received"} <= set(steps["remove"])
    assert {"note published", "note logs"} <= set(steps["finish"])
    same = ("people", "found", "identifiers", "stores", "days_rebuilt", "versions_removed")
    assert {name: said[name] for name in same} == {name: counts[name] for name in same}


# Readers


def read_until_told(path: Path, opened: Any, close: Any) -> None:
    with published(path) as con:
        con.execute("select count(*) from events").fetchall()
        opened.set()
        close.wait()


def test_a_version_that_is_read_stays_until_it_is_closed(line: Line) -> None:
    opened, close = FORK.Event(), FORK.Event()
    path = version_path(line.pipeline.home, current_version(line.pipeline.home) or 0)
    reader = process(read_until_told, path, opened, close)
    reader.start()
    opened.wait()
    assert has_readers(path)
    asked: list[str] = []

    def say(text: str) -> None:
        asked.append(text)
        if "waiting" in text:
            assert path.exists()
            close.set()
            reader.join()

    assert not remove_versions(line.pipeline.home, -1, lambda number: None, say)
    assert asked
    assert not path.exists()


# Whoever it is


@given(st.data())
@settings(max_examples=4 * ROUNDS, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_an_erased_person_leaves_what_a_home_would_be_that_never_saw_them(tmp_path: Path, data: st.DataObject) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    ids = st.sampled_from(["u1", "u2", "u3", None])
    devices = st.sampled_from(["d1", "d2", "u1", None])
    drawn = data.draw(st.lists(st.tuples(ids, devices, st.integers(0, 60), st.booleans()), min_size=1, max_size=14))
    events = [
        an_event(
            f"m{n}", user_id=user, anonymous_id=device, timestamp=at(5 * minute), session_id=None,
            **({"type": "alias", "properties": {"previousId": device}} if alias and user and device else {}),
        )
        for n, (user, device, minute, alias) in enumerate(drawn)
    ]  # fmt: skip
    config = a_config(folder / "config")
    with Line.at(folder / "seen", config) as line:
        line.pipeline.clock = lambda: line.now
        line.load(events)
        line.sessions()
        told = f"select user_id, message_id from ({line.pipeline._stitched(line.con, EVENTS)}) where user_id is not null"
        of = line.con.execute(f"{told} order by all").fetchall()
        assume(of)
        victim = data.draw(st.sampled_from(sorted({user for user, _ in of})))
        theirs = {message for user, message in of if user == victim}
        line.pipeline.erasures.ask([Person("acme", "user", victim)], "tester")
        line.pipeline.erasures.remove(line.con, line.now)
        line.sessions()
        sessions = line.rows(SESSIONS)
        kept = {row["message_id"]: row["anonymous_id"] for row in line.dicts(EVENTS)}
    assert set(kept) == {event["message_id"] for event in events} - theirs
    if not kept:
        assert sessions == []
        return
    with Line.at(folder / "never", config) as never:
        never.load([{**event, "anonymous_id": kept[event["message_id"]]} for event in events if event["message_id"] in kept])
        never.sessions()
        assert never.rows(SESSIONS) == sessions
