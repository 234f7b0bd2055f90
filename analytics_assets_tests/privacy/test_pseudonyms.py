"""Identifiers are pseudonyms everywhere but in the raw store: of one person one, of every tenant another; no key is ever needed
twice and lost without a word.
"""

import hmac
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.audit.log import Audit
from analytics_assets.audit.report import Wanted, report
from analytics_assets.cli import cli
from analytics_assets.events.rewrite import replace_identifiers
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import REJECTED
from analytics_assets.privacy import pseudonyms as room
from analytics_assets.privacy.digests import Digests, digester, pseudonym
from analytics_assets.privacy.keyring import Key, KeyLost
from analytics_assets.privacy.pseudonyms import IDENTIFIERS
from analytics_assets.sessions.tables import IDENTITIES, SESSIONS, USERS
from analytics_assets.settings import ConfigError, Settings, UserError
from analytics_assets.warehouse.publish import PublishRefused
from analytics_assets_tests.builders import NOW, Line, Opener, a_config, an_event, at, published, rows_of
from analytics_assets_tests.conftest import made_once
from analytics_assets_tests.faults import run

_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=80)
_KEYS = {"acme": Key("k1", b"a" * 32), "globex": Key("k12", b"b" * 32)}


@pytest.fixture
def line(open_line: Opener, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    """A line whose tenants have pseudonyms, with keys of its own."""
    monkeypatch.setenv("ANALYTICS_KEYS", str(tmp_path / "keys"))
    return open_line(pseudonyms=True)


def told(line: Line, value: str, tenant: str = "acme") -> str:
    return line.pipeline.pseudonyms.pseudonym(tenant, value)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of two people of acme and one of globex, built, with its declarations and keys."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ANALYTICS_KEYS", str(folder / "keys"))
            with Line.at(folder / "home", a_config(folder / "home-config", pseudonyms=True)) as line:
                line.load(
                    [
                        an_event("m1", user_id="bob"),
                        an_event("m2", user_id="eve", anonymous_id="device-2", properties={"previousId": "bob"}, type="alias"),
                        an_event("m3", tenant_id="globex", user_id="bob"),
                    ]
                )
                line.rebuild()

    return made_once(tmp_path_factory, "two-people", make)


@pytest.fixture
def two_people(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    monkeypatch.setenv("ANALYTICS_KEYS", str(tmp_path / "keys"))
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    with Line.at(tmp_path / "home", tmp_path / "home-config") as line:
        yield line


# The digests


@given(st.binary(min_size=1, max_size=64), _TEXT)
def test_a_digest_is_hmac_sha256(secret: bytes, value: str) -> None:
    assert digester(Key("k1", secret))(value) == hmac.digest(secret, value.encode(), "sha256")[:16]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["acme", "globex"]), st.none() | _TEXT), max_size=40))
def test_a_query_gives_each_value_its_pseudonym(rows: list[tuple[str, str | None]]) -> None:
    digests = Digests(lambda tenant, values: {})
    for tenant, key in _KEYS.items():
        digests.use(tenant, key)
    with duckdb.connect() as con:
        con.create_function("f", digests.of, ["VARCHAR", "VARCHAR"], "VARCHAR", type="arrow")  # type: ignore[call-overload]
        con.register("t", pa.table({"tenant_id": [t for t, _ in rows], "v": pa.array([v for _, v in rows], pa.string())}))
        for _ in range(2):
            found = con.execute("select tenant_id, v, f(tenant_id, v) from t").fetchall()
            assert [one for _, _, one in found] == [None if v is None else pseudonym(_KEYS[t], v) for t, v, _ in found]
    new = digests.taken()
    assert {(row["tenant_id"], row["value"]) for row in (new.to_pylist() if new else [])} == {row for row in rows if row[1]}


_ID = st.none() | st.sampled_from(["", "a", "b"]) | _TEXT


@pytest.fixture(scope="module")
def replacing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A line without events, for asking what its pseudonyms make of a relation."""
    folder = tmp_path_factory.mktemp("replacing")
    with Line.at(folder / "home", a_config(folder / "config", pseudonyms=True)) as line:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ANALYTICS_KEYS", str(folder / "keys"))
            assert line.pipeline.pseudonyms
        yield line


@pytest.mark.parametrize("hashed", [room._hash, lambda columns: "7::ubigint"], ids=["hashes", "all with the same hash"])
@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from(["acme", "globex"]), _ID, _ID, _ID), max_size=30))
def test_each_row_gets_its_own_pseudonyms_and_no_row_is_lost_or_doubled(
    replacing: Line, hashed: Callable[[Sequence[str]], str], rows: list[tuple[str, str | None, str | None, str | None]]
) -> None:
    pseudonyms, con = replacing.pipeline.pseudonyms, replacing.con
    names = ("tenant_id", "user_id", "anonymous_id", "session_id")
    columns = {name: pa.array([row[place] for row in rows], pa.string()) for place, name in enumerate(names)}
    empty = pa.array(["{}"] * len(rows), pa.string())
    con.register("given_rows", pa.table({"rn": range(len(rows)), **columns, "properties": empty, "context": empty}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_hash", hashed)
        found = pseudonyms.replaced(con, "(from given_rows)", "canonical", {"acme", "globex"})
        told_of = con.execute(f"select {', '.join(names)} from {found} order by rn").fetchall()
    assert told_of == [
        (tenant, *(pseudonyms.pseudonym(tenant, value) if value else None for value in ids)) for tenant, *ids in rows
    ]
    pseudonyms.forget(con)


@settings(max_examples=60, deadline=None)
@given(key=_TEXT, ascii_only=st.booleans(), slashed=st.booleans())
def test_a_key_is_found_however_it_is_spelled(replacing: Line, key: str, ascii_only: bool, slashed: bool) -> None:
    text = json.dumps({"other": 1, key: "bob"}, ensure_ascii=ascii_only)
    text = text.replace("/", r"\/") if slashed else text
    assert replacing.con.execute(f"select {room.may_hold('text', [key])} from (select ? as text)", [text]).fetchall() == [
        (True,)
    ]


# What is stored


def test_a_person_is_the_same_in_every_table_and_another_for_every_tenant(line: Line) -> None:
    line.load(
        [
            an_event("m1", user_id="bob", session_id="s1"),
            an_event(
                "m2", type="alias", user_id="robert", anonymous_id=None, properties={"previousId": "bob"}, timestamp=at(1)
            ),
            an_event("m3", tenant_id="globex", user_id="bob"),
        ]
    )
    line.rebuild()
    path = line.publish().path
    bob, robert, globex = told(line, "bob"), told(line, "robert"), told(line, "bob", "globex")
    assert rows_of(path, "select user_id from events order by message_id") == [(bob,), (robert,), (globex,)]
    # Who bob is, is known by the alias: the sessions and the person are robert's.
    assert rows_of(path, "select distinct user_id from sessions where tenant_id = 'acme'") == [(robert,)]
    assert rows_of(path, "select person_id, events from users order by tenant_id") == [(robert, 2), (globex, 1)]
    assert rows_of(path, "select session_id from sessions where session_id not like 'auto-%'") == [(told(line, "s1"),)]
    assert line.rows(IDENTIFIERS, columns="tenant_id, value") == [
        ("acme", "bob"), ("acme", "device-1"), ("acme", "robert"), ("acme", "s1"), ("globex", "bob"), ("globex", "device-1"),
    ]  # fmt: skip
    # A later batch stores nothing twice.
    line.load([an_event("m4", user_id="bob", timestamp=at(5))])
    assert len(line.rows(IDENTIFIERS)) == 6


CANARY = "canary-7f3a"
_CALLS: list[dict[str, Any] | str] = [
    {"type": "track", "userId": f"{CANARY}-user", "anonymousId": f"{CANARY}-device", "event": "Look"},
    {"type": "identify", "userId": "u", "traits": {"email": f"{CANARY}@mail.test", "plan": "free"}},
    {"type": "alias", "userId": "u", "previousId": f"{CANARY}-before"},
    {"type": "group", "userId": "u", "groupId": f"{CANARY}-group"},
    {"type": "track", "userId": "u", "event": "Look", "context": {"ip": f"{CANARY}-ip", "device": {"id": f"{CANARY}-phone"}}},
    {"type": "track", "userId": "u", "event": "Look", "context": {"traits": {"email": f"{CANARY}-context"}}},
    # A key that is spelled with escapes, one that stands there twice, and one that is no text.
    '{"type": "track", "userId": "u", "event": "Look", "context": {"\\u0069p": "' + CANARY + '-escaped"}, MORE}',
    '{"type": "track", "userId": "u", "event": "Look", "context": {"ip": null, "ip": "' + CANARY + '-twice"}, MORE}',
    {"type": "track", "userId": "u", "event": "Look", "context": {"ip": [{"a": f"{CANARY}-list"}]}},
    # This one is rejected, and kept as it came.
    {"type": "odd", "userId": f"{CANARY}-rejected"},
]


def _with_canaries() -> Iterator[dict[str, Any] | str]:
    for number, call in enumerate(_CALLS):
        more = {"messageId": f"m{number}", "timestamp": at(number).isoformat() + "Z"}
        yield call.replace("MORE", json.dumps(more)[1:-1]) if isinstance(call, str) else {**call, **more}


def _files_with(home: Path, text: str) -> set[str]:
    """Folders below the home with a file that holds a text, as bytes or decoded."""
    found = set()
    for path in home.rglob("*"):
        if path.is_file() and (text.encode() in path.read_bytes() or any(text in row for row in _decoded(path))):
            found.add("/".join(path.relative_to(home).parts[:2]))
    return found


def _decoded(path: Path) -> Iterator[str]:
    if path.suffix == ".parquet":
        with duckdb.connect() as con:
            yield from (row for (row,) in con.execute(f"select t::varchar from read_parquet('{path}') t").fetchall())
    elif path.suffix == ".duckdb":
        with published(path) as con:
            for (name,) in con.execute("select table_name from information_schema.tables").fetchall():
                yield from (row for (row,) in con.execute(f'select t::varchar from "{name}" t').fetchall())


def test_only_the_raw_store_holds_an_identifier(line: Line, tmp_path: Path) -> None:
    file = tmp_path / "deliveries" / "calls.ndjson"
    file.parent.mkdir()
    file.write_text("".join((c if isinstance(c, str) else json.dumps(c)) + "\n" for c in _with_canaries()))
    loaded = line.load(file, "segment", "acme")
    assert (loaded.events, loaded.rejected) == (9, 1)
    line.rebuild()
    line.publish()
    stays = {"warehouse/identifiers", "warehouse/rejected_events"}
    assert _files_with(line.home, CANARY) == stays
    assert CANARY not in str(line.rows(EVENTS))
    assert CANARY in str(line.rows(REJECTED))
    path = line.pipeline.home.published / "analytics.duckdb"
    assert rows_of(path, "select reason, tenant_id from rejected_events") == [("unknown_type", "acme")]
    assert sum(CANARY in value for _, value in line.rows(IDENTIFIERS, columns="tenant_id, value")) == 10


def test_what_is_no_identifier_stays_as_it_was(line: Line) -> None:
    given = {"price": 1.5, "colour": "red", "traits": "none", "empty": None}
    line.load([an_event("m1", properties=given), an_event("m2", properties={**given, "previousId": "bob"}, timestamp=at(1))])
    first, second = (json.loads(text) for (text,) in line.rows(EVENTS, columns="properties"))
    assert sorted([first, second], key=len) == [given, {**given, "previousId": told(line, "bob")}]


def test_a_pseudonym_that_comes_back_is_the_same_person(line: Line) -> None:
    line.load([an_event("m1", user_id="bob")])
    again = an_event("m2", user_id=told(line, "bob"), timestamp=at(1))
    unknown = an_event("m3", user_id="k1:" + "0" * 32, timestamp=at(2))
    line.load([again, unknown])
    bob = told(line, "bob")
    assert line.rows(EVENTS, columns="message_id, user_id") == [
        ("m1", bob),
        ("m2", bob),
        ("m3", told(line, unknown["user_id"])),
    ]


def test_a_tenant_that_is_declared_without_has_none(line: Line, tmp_path: Path) -> None:
    declared = line.pipeline.settings.config / "tenants.yaml"
    declared.write_text("tenants: [{id: acme, source: canonical}, {id: globex, source: canonical, pseudonyms: false}]")
    line.load(
        [an_event("m1", user_id="bob"), an_event("m2", tenant_id="globex", user_id="bob", properties={"previousId": "x"})]
    )
    assert line.rows(EVENTS, columns="tenant_id, user_id") == [("acme", told(line, "bob")), ("globex", "bob")]


def test_small_files_of_the_raw_store_are_merged(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_MANY_FILES", 3)
    for number in range(5):
        line.load([an_event(f"m{number}", user_id=f"user-{number}", timestamp=at(number))])
    assert len(line.pipeline.table(IDENTIFIERS).snapshot().files) <= 3
    assert [value for (value,) in line.rows(IDENTIFIERS, columns="value")] == ["device-1", *(f"user-{n}" for n in range(5))]


# Kills


def _killed_before_the_events(home: Path, config: Path) -> None:
    with Line.at(home, config) as line:
        line.pipeline.intake.events.commit = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        line.load([an_event(f"m{n}", user_id=f"user-{n}", timestamp=at(n)) for n in range(50)])


def test_a_load_that_is_killed_between_its_two_commits_is_exact_when_it_runs_again(line: Line, tmp_path: Path) -> None:
    assert run(_killed_before_the_events, line.home, tmp_path / "home-config") == -signal.SIGKILL
    assert (len(line.rows(IDENTIFIERS)), line.rows(EVENTS)) == (51, [])
    line.load([an_event(f"m{n}", user_id=f"user-{n}", timestamp=at(n)) for n in range(50)])
    assert (len(line.rows(IDENTIFIERS)), len(line.keys())) == (51, 50)
    stored = {user for (user,) in line.rows(EVENTS, columns="user_id")}
    assert stored == {told(line, f"user-{n}") for n in range(50)}


# Keys


def test_a_lost_key_stops_load_and_publish_and_loses_nothing(two_people: Line) -> None:
    line = two_people
    before = line.keys()
    path = line.pipeline.pseudonyms.keyring.path
    kept = path.rename(path.with_suffix(".elsewhere"))
    more = [an_event("m4", user_id="bob", timestamp=at(1))]
    cure = f"the key k1 of 'acme' is not in {path}; put the backup of that file back"
    with pytest.raises(KeyLost, match=cure):
        line.load(more)
    with pytest.raises(PublishRefused, match=cure):
        line.publish()
    assert line.keys() == before
    kept.rename(path)
    line.load(more)
    line.rebuild()
    line.publish()
    assert line.rows(EVENTS, columns="message_id, user_id")[::3] == [(name, told(line, "bob")) for name in ("m1", "m4")]


def test_another_key_of_the_same_name_is_refused(line: Line) -> None:
    line.load([an_event("m1")])
    path = line.pipeline.pseudonyms.keyring.path
    path.unlink()
    line.pipeline.pseudonyms.keyring.after("acme", None, NOW)
    with pytest.raises(KeyLost, match="the key k1 of 'acme' is another one than that of the stored data, in "):
        line.load([an_event("m2")])


def test_keys_are_read_by_their_user_alone_and_never_told(line: Line) -> None:
    line.load([an_event("m1")])
    ring = line.pipeline.pseudonyms.keyring
    assert ring.path.stat().st_mode & 0o777 == 0o600
    secret = ring.keys("acme")[0].secret
    assert _files_with(line.home, secret.hex()) == set() and secret.hex() not in repr(ring.keys("acme"))
    ring.path.chmod(0o644)
    with pytest.raises(UserError, match="open to all users; run `chmod o= "):
        ring.keys("acme")
    ring.path.chmod(0o600)
    ring.path.write_text(ring.path.read_text()[:-20])
    with pytest.raises(UserError, match="is damaged; put its backup back") as error:
        ring.keys("acme")
    assert secret.hex() not in str(error.value)


def test_keys_do_not_lie_in_the_data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYTICS_KEYS", str(tmp_path / "home" / "keys"))
    with pytest.raises(ConfigError, match="keys must not lie in the data home"):
        _ = Settings(tmp_path / "home").keys


# A new key


def test_after_a_rotation_people_are_the_same_under_new_pseudonyms(two_people: Line) -> None:
    line = two_people
    old, others = told(line, "bob"), told(line, "bob", "globex")
    before = line.rows(USERS, without=("person_id", "user_id"))
    replace_identifiers(line.pipeline.intake, line.con, "acme", line.now)
    line.load([an_event("m4", user_id="bob", timestamp=at(3, day=1))])
    line.rebuild()
    line.publish()
    new = told(line, "bob")
    assert new.startswith("k2:") and line.rows(EVENTS, columns="message_id, user_id") == [
        ("m1", new), ("m2", told(line, "eve")), ("m3", others), ("m4", new),
    ]  # fmt: skip
    for spec in (EVENTS, SESSIONS, USERS, IDENTITIES):
        assert "k1:" not in str([row for row in line.rows(spec) if "acme" in row])
    assert len(line.rows(USERS)) == len(before)
    # Whoever has an older version can still be answered.
    assert line.pipeline.pseudonyms.reidentify("acme", old) == "bob"


def _rotated_and_killed(home: Path, config: Path, after: bool) -> None:
    with Line.at(home, config) as line:
        commit = line.pipeline.intake.events.commit

        def last_words(*arguments: Any, **options: Any) -> int:
            if after:
                commit(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)
            return 0

        line.pipeline.intake.events.commit = last_words  # type: ignore[method-assign]
        replace_identifiers(line.pipeline.intake, line.con, "acme", line.now)


@pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after the commit"])
def test_a_rotation_that_is_killed_is_done_or_not(two_people: Line, tmp_path: Path, after: bool) -> None:
    line = two_people
    assert run(_rotated_and_killed, line.home, tmp_path / "home-config", after) == -signal.SIGKILL
    line.load([an_event("m4", user_id="bob", timestamp=at(3))])
    users = line.rows(EVENTS, columns="message_id, user_id")
    assert users[0][1] == users[-1][1] == told(line, "bob") and users[0][1].startswith("k2:" if after else "k1:")
    replace_identifiers(line.pipeline.intake, line.con, "acme", line.now)
    line.rebuild()
    assert {user for _, user in line.rows(EVENTS, columns="message_id, user_id") if user.startswith("k1:")} == {
        told(line, "bob", "globex")
    }
    assert len(line.rows(USERS)) == 2


def test_a_lost_key_without_a_backup_is_mended_by_a_new_one(two_people: Line) -> None:
    line = two_people
    line.pipeline.pseudonyms.keyring.path.unlink()
    for tenant in ("acme", "globex"):
        replace_identifiers(line.pipeline.intake, line.con, tenant, line.now)
    line.rebuild()
    line.publish()
    assert line.rows(EVENTS, columns="message_id, user_id")[0] == ("m1", told(line, "bob"))


def test_a_home_with_identifiers_in_clear_is_not_mixed_but_asked_for(open_line: Opener, tmp_path: Path) -> None:
    with Line.at(tmp_path / "home", a_config(tmp_path / "clear")) as line:
        line.load([an_event("m1", user_id="bob"), an_event("m2", tenant_id="globex", user_id="bob")])
    line = open_line(pseudonyms=True)
    with pytest.raises(UserError, match=r"of 'acme' hold identifiers in clear.* run `analytics privacy rotate --tenant acme`"):
        line.load([an_event("m3", user_id="bob")])
    replace_identifiers(line.pipeline.intake, line.con, "acme", line.now)
    line.load([an_event("m3", user_id="bob", timestamp=at(1))])
    bob = told(line, "bob")
    assert line.rows(EVENTS, columns="message_id, user_id") == [("m1", bob), ("m2", "bob"), ("m3", bob)]


def test_what_was_stored_before_its_label_is_told_and_replaced_by_a_rotation(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANALYTICS_HOME", str(line.home))
    monkeypatch.setenv("ANALYTICS_CONFIG", str(line.pipeline.settings.config))
    line.load([an_event("m1", user_id="bob", properties={"referrer": "nick-7"}, context={"traits": {"nick": "nick-8"}})])

    def waits() -> list[tuple[str, str, int, str]]:
        told = CliRunner().invoke(cli, ["privacy", "waiting", "--json"], standalone_mode=False, catch_exceptions=False).stdout
        return [(one["tenant"], one["field"], one["events"], one["first"]) for one in json.loads(told)]

    assert waits() == []
    path = line.pipeline.settings.config / "taxonomy.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["keys"]["properties"]["canonical"]["referrer"] = "identifier"
    declared["keys"]["context"]["canonical"]["traits.nick"] = "identifier"
    path.write_text(yaml.safe_dump(declared))
    day = str(at(0).date())
    assert waits() == [("acme", "properties.referrer", 1, day), ("acme", "context.traits.nick", 1, day)]
    replace_identifiers(line.pipeline.intake, line.con, "acme", line.now)
    assert waits() == [] and "nick-" not in str(line.rows(EVENTS))


def test_pseudonyms_are_not_switched_off_in_silence(two_people: Line) -> None:
    declared = two_people.pipeline.settings.config / "tenants.yaml"
    declared.write_text(declared.read_text().replace("pseudonyms: true", "pseudonyms: false"))
    with (
        Line.at(two_people.home, declared.parent) as line,
        pytest.raises(UserError, match="'acme' bear pseudonyms; declare `pseudonyms: true`"),
    ):
        line.load([an_event("m9")])


# The commands


def test_a_person_is_found_and_told_by_commands(two_people: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYTICS_HOME", str(two_people.home))
    monkeypatch.setenv("ANALYTICS_CONFIG", str(two_people.pipeline.settings.config))

    def answer(*arguments: str) -> str:
        return CliRunner().invoke(cli, ["privacy", *arguments], standalone_mode=False).stdout.strip()

    bob = told(two_people, "bob")
    assert answer("pseudonym", "bob", "--tenant", "acme") == bob
    assert answer("reidentify", bob, "--tenant", "acme", "--reason", "she asked for her data") == "bob"
    assert answer("reidentify", bob, "--tenant", "acme") == ""
    # Who asked for whom is on record, by the person's name too.
    about_bob = Wanted(action="reidentify", tenant="acme", names=["bob"])
    assert [act.outcome for act in report(Audit(two_people.pipeline.settings).chain, about_bob)] == ["done"]
    assert json.loads(answer("pseudonym", "nobody", "--tenant", "acme", "--json"))["known"] is False
    result = CliRunner().invoke(
        cli, ["privacy", "reidentify", bob, "--tenant", "globex", "--reason", "none"], standalone_mode=False
    )
    assert str(result.exception) == "'globex' has no such pseudonym; `analytics privacy pseudonym` tells that of an identifier"
