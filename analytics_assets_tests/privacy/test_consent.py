"""Consent: who says it and how, whom it holds for, and that no order of loading shows anybody who refused."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from analytics_assets.declarations import faults
from analytics_assets.events.days import mark_built, unsettled
from analytics_assets.events.forget import forget
from analytics_assets.events.intake import INTAKE_LOCK
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.withdraw import EXPIRED
from analytics_assets.outgoing import declared_roles, egress
from analytics_assets.pipeline import Waiting
from analytics_assets.privacy.consent import CONSENT_STATEMENTS, Consent, statements
from analytics_assets.privacy.egress import Request
from analytics_assets.privacy.withheld import CONSENT_EXCEPTIONS, CONSENT_STATUS
from analytics_assets.sessions.tables import PAGE_VIEWS, RUNAWAYS, SESSIONS, USERS
from analytics_assets.settings import CONFIG, ConfigError
from analytics_assets.shown import publishables
from analytics_assets.warehouse.publish import PublishRefused, current_version
from analytics_assets.warehouse.table import replace_all
from analytics_assets_tests.builders import DAY, SNOWPLOW, Line, a_config, a_view, an_event, at, rows_of

Event = dict[str, Any]
WITHDRAWN, GRANTED = "Consent Withdrawn", "Consent Granted"


def says(event: str, message_id: str, *purposes: str, **changes: Any) -> Event:
    return an_event(message_id, event=event, properties={"purposes": list(purposes or ("analytics",))}, **changes)


def an_alias(message_id: str, earlier: str, user: str, **changes: Any) -> Event:
    return an_event(message_id, type="alias", event="alias", user_id=user, anonymous_id=None,
                    properties={"previousId": earlier}, **changes)  # fmt: skip


def said(*events: Event, source: str = "canonical", consent: Consent | None = None) -> list[tuple[Any, ...]]:
    """(id, purpose, granted) of the statements in these events."""
    declared: Consent = consent or Consent.load(CONFIG / "consent.yaml")
    with duckdb.connect() as con:
        con.execute(f"create table events as {EVENTS.empty_select}")
        for event in events:
            texts = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in event.items()}
            texts["source"] = source
            con.execute(f"insert into events ({', '.join(texts)}) values ({', '.join('?' * len(texts))})", list(texts.values()))
        select = statements(declared, "select * from events")
        return con.execute(f"select id, purpose, granted from ({select}) order by all").fetchall()


# How events say it


def test_a_named_purpose_is_withdrawn_and_no_other() -> None:
    assert said(says(WITHDRAWN, "1", "analytics")) == [("device-1", "analytics", False)]


@pytest.mark.parametrize("name", ["analytics", "Analytics", "STATISTICS", "analytics_storage"])
def test_a_purpose_is_known_by_every_name_that_is_declared(name: str) -> None:
    assert said(says(GRANTED, "1", name)) == [("device-1", "analytics", True)]


def test_a_single_name_is_a_list_of_one() -> None:
    assert said(an_event("1", event=GRANTED, properties={"purposes": "marketing"})) == [("device-1", "marketing", True)]


@pytest.mark.parametrize("properties", [{}, {"purposes": None}, {"purposes": 7}])
def test_a_withdrawal_that_names_nothing_is_of_everything_and_a_grant_of_nothing(properties: dict[str, Any]) -> None:
    refused = [("device-1", purpose, False) for purpose in ("analytics", "marketing", "personalize")]
    assert said(an_event("1", event=WITHDRAWN, properties=properties)) == refused
    assert said(an_event("1", event=GRANTED, properties=properties)) == []


def test_what_nobody_declared_says_nothing() -> None:
    assert said(says(WITHDRAWN, "1", "astrology"), an_event("2", event="Consent Pondered")) == []


def test_the_latest_statement_counts_and_of_two_at_one_time_the_withdrawal() -> None:
    early, late = {"timestamp": at(0)}, {"timestamp": at(5)}
    assert said(says(WITHDRAWN, "1", **early), says(GRANTED, "2", **late)) == [("device-1", "analytics", True)]
    assert said(says(GRANTED, "1", **early), says(WITHDRAWN, "2", **late)) == [("device-1", "analytics", False)]
    assert said(says(GRANTED, "1", **early), says(WITHDRAWN, "2", **early)) == [("device-1", "analytics", False)]


def test_segments_consent_object_counts_on_any_event() -> None:
    chosen = {"Advertising": True, "Analytics": False, "Functional": None, "DataSharing": True}
    found = said(an_event("1", user_id="u1", context={"consent": {"categoryPreferences": chosen}}), source="segment")
    assert found == [("u1", "analytics", False), ("u1", "marketing", True)]


@pytest.mark.parametrize("value", ["false", 0, "no", [], {}])
def test_a_choice_that_is_not_clearly_true_is_no_consent(value: Any) -> None:
    found = said(an_event("1", context={"consent": {"categoryPreferences": {"Analytics": value}}}), source="segment")
    assert found == [("device-1", "analytics", False)]


@pytest.mark.parametrize(
    ("kind", "scopes", "analytics"),
    [
        ("allow_all", ["necessary", "preferences", "statistics", "marketing"], True),
        ("allow_selected", ["necessary", "statistics"], True),
        ("allow_selected", ["necessary", "marketing"], False),
        ("deny_all", ["necessary"], False),
        ("withdrawn", ["statistics"], False),
        ("expired", ["statistics"], False),
        ("pending", ["statistics"], None),
    ],
)
def test_snowplows_consent_plugin_says_what_is_allowed_now(kind: str, scopes: list[str], analytics: bool | None) -> None:
    event = an_event("1", event="consent_preferences",
                     properties={"consent_preferences": {"event_type": kind, "consent_scopes": scopes}})  # fmt: skip
    found = {purpose: granted for _, purpose, granted in said(event, source="snowplow")}
    assert found.get("analytics") is analytics
    assert len(found) in (0, 3)


def test_the_snowplow_sample_ends_with_consent(line: Line) -> None:
    """All its 32 consent events are one test user's on 25 devices; the last of them allows all."""
    config = line.pipeline.settings.config / "sources" / "snowplow.yaml"
    assert config.exists()
    line.load(SNOWPLOW, "snowplow", "acme")
    line.sessions()
    assert line.rows(CONSENT_STATUS, columns="person_id, purpose, status") == [
        ("consent_accel", purpose, "granted") for purpose in ("analytics", "marketing", "personalize")
    ]
    assert len(line.rows(CONSENT_STATEMENTS, columns="distinct kind, id")) == 1
    assert line.rows(CONSENT_EXCEPTIONS) == []


# What is declared


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"purposes": {"analytics.everything": ["all"]}}, "Fides has no use 'analytics.everything'"),
        ({"tenants": {"initech": "opt_in"}}, "consent.yaml:2: 'initech' is no declared tenant; correct it"),
        ({"statements": {"fax": []}}, "there is no source 'fax'"),
        ({"statements": {"segment": [{"says": "withdrawn"}]}}, "every event would say this; name the `event`"),
        ({"statements": {"segment": [{"says": "granted", "event": "x"}]}}, "say under `names` where the purposes stand"),
        ({"statements": {"segment": [{"says": "choices", "names": "purposes"}]}}, "'purposes' is no path"),
        ({"default": "opt_maybe"}, "consent.yaml:1: default: "),
    ],
)
def test_a_wrong_line_is_one_sentence_with_its_place(line: Line, change: dict[str, Any], sentence: str) -> None:
    path = line.pipeline.settings.config / "consent.yaml"
    path.write_text(
        yaml.safe_dump({**change, **{name: {} for name in ("purposes", "statements") if name not in change}}, sort_keys=False)
    )
    with pytest.raises(ConfigError) as refused:
        _ = line.pipeline.consents.declared
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert list(faults(line.pipeline)) == ["consent.yaml"]


@pytest.mark.parametrize("left", ["", "default: opt_out\n", "purposes: {analytics: []}\n"])
def test_a_file_that_was_emptied_brings_nobody_back(line: Line, left: str) -> None:
    (line.pipeline.settings.config / "consent.yaml").write_text(left)
    with pytest.raises(ConfigError, match=r"^consent\.yaml:1: (purposes|statements): Field required; add it$"):
        _ = line.pipeline.consents.declared


def test_a_purpose_rules_the_tables_of_all_purposes_below_it() -> None:
    declared = Consent(purposes={"analytics": (), "analytics.reporting": (), "marketing": ()}, statements={})
    assert declared.ruling("analytics.reporting") == ("analytics", "analytics.reporting")
    assert declared.ruling("analytics") == ("analytics",)
    assert declared.ruling("analyticsx") == ()


# Whom it holds for


def shown_to_readers(line: Line) -> list[str]:
    """Message ids of the events that readers would get."""
    with_events = publishables(line.pipeline.table, line.pipeline.built_version())[0]
    return [name for (name,) in line.con.execute(f"select message_id from ({with_events.select}) order by 1").fetchall()]


def seen_after(line: Line, *events: Event) -> list[str]:
    line.load(events)
    line.sessions()
    return shown_to_readers(line)


def test_a_withdrawal_by_a_device_holds_for_its_user(line: Line) -> None:
    events = [an_event("login", user_id="u1"), an_event("elsewhere", user_id="u1", anonymous_id="device-2")]
    assert seen_after(line, *events, an_event("other", anonymous_id="device-3"), says(WITHDRAWN, "no")) == ["other"]


def test_a_withdrawal_by_an_earlier_id_holds_for_the_later_one(line: Line) -> None:
    before = says(WITHDRAWN, "no", user_id="old", anonymous_id=None)
    assert seen_after(line, before, an_event("1", user_id="new", anonymous_id=None)) == ["1"]
    assert seen_after(line, an_alias("alias", "old", "new", timestamp=at(9))) == []


def test_it_holds_within_the_tenant(line: Line) -> None:
    assert seen_after(line, says(WITHDRAWN, "no"), an_event("1", tenant_id="globex")) == ["1"]


def test_another_purpose_does_not_matter(line: Line) -> None:
    assert seen_after(line, says(WITHDRAWN, "no", "marketing"), an_event("1")) == ["1", "no"]


def test_where_a_tenant_is_opt_in_nobody_is_seen_before_they_said_so(line: Line) -> None:
    path = line.pipeline.settings.config / "consent.yaml"
    path.write_text(path.read_text().replace("tenants: {}", "tenants: {acme: opt_in}"))
    nobody = an_event("nobody", anonymous_id=None)
    others = [an_event("theirs", tenant_id="globex"), an_event("2", anonymous_id="device-2"), nobody]
    assert seen_after(line, an_event("1"), *others) == ["theirs"]
    assert seen_after(line, says(GRANTED, "yes", timestamp=at(5))) == ["1", "theirs", "yes"]
    assert seen_after(line, says(WITHDRAWN, "no", timestamp=at(9))) == ["theirs"]


def test_a_changed_declaration_moves_people_with_the_next_refresh(line: Line) -> None:
    assert seen_after(line, an_event("1"), an_event("2", timestamp=at(day=-2)), says(WITHDRAWN, "no", "astrology")) == [
        "1", "2", "no",
    ]  # fmt: skip
    mark_built(line.con, line.pipeline.home, line.pipeline.pending(line.con), line.pipeline.built_version())
    assert line.pipeline.pending(line.con) == []
    path = line.pipeline.settings.config / "consent.yaml"
    path.write_text(path.read_text().replace("[statistics, ", "[astrology, statistics, "))
    assert line.pipeline.pending(line.con) == [DAY]
    line.sessions()
    assert shown_to_readers(line) == []
    assert unsettled(line.con, line.pipeline.home) == [at(day=-2).date(), DAY]


# Any sequence, in any order of loading

_NEVER = at(day=-10_000)
USERS_AND_DEVICES = st.sampled_from(["a", "b", "c"])


@st.composite
def any_event(draw: st.DrawFn) -> Event:
    user, device = draw(st.none() | USERS_AND_DEVICES), draw(st.none() | USERS_AND_DEVICES)
    kind = draw(st.sampled_from(["view", "view", "track", "track", "alias", GRANTED, WITHDRAWN, WITHDRAWN]))
    moment = at(draw(st.sampled_from([0, 1, 20, 45])), day=-draw(st.integers(0, 40)) if draw(st.booleans()) else 0)
    given_session = draw(st.sampled_from([None, None, "s1", "s2"]))
    about = {"user_id": user, "anonymous_id": device, "session_id": given_session, "timestamp": moment}
    if kind == "alias" and user:
        return an_alias("", draw(USERS_AND_DEVICES), user, timestamp=moment)
    if kind in (GRANTED, WITHDRAWN):
        return says(kind, "", **about)
    return a_view("", **about) if kind == "view" else an_event("", **about, revenue=1, currency="EUR")


def people_of(events: Sequence[Event]) -> list[str | None]:
    """The definition of who is behind each event: the user with aliases followed, else the device's, else device or session."""
    aliases: dict[str, tuple[datetime, str]] = {}
    devices: dict[str, tuple[datetime, str]] = {}
    for event in events:
        user, moment = event.get("user_id"), event["timestamp"]
        if event["type"] == "alias" and user:
            earlier = event["properties"]["previousId"]
            if earlier != user:
                aliases[earlier] = max(aliases.get(earlier, (_NEVER, "")), (moment, user))
        elif user and event.get("anonymous_id"):
            device = event["anonymous_id"]
            devices[device] = max(devices.get(device, (_NEVER, "")), (moment, user))

    def followed(user: str) -> str:
        way: list[str] = []
        while user in aliases and user not in way:
            way.append(user)
            user = aliases[user][1]
        return min(way[way.index(user) :]) if user in way else user

    def person(event: Event) -> str | None:
        user, device, session = (event.get(name) for name in ("user_id", "anonymous_id", "session_id"))
        if user:
            return followed(user)
        if device in devices:
            return followed(devices[device][1])
        if device in aliases:
            return followed(device)
        return f"device:{device}" if device else f"session:{session}" if session else None

    return [person(event) for event in events]


def with_consent(events: Sequence[Event]) -> list[Event]:
    """The events of people who did not withdraw, by the definition."""
    people = people_of(events)
    latest: dict[str, tuple[datetime, bool]] = {}
    for event, person in zip(events, people, strict=True):
        if event["event"] in (GRANTED, WITHDRAWN) and person:
            statement = (event["timestamp"], event["event"] == WITHDRAWN)
            latest[person] = max(latest.get(person, (_NEVER, False)), statement)
    return [
        event
        for event, person in zip(events, people, strict=True)
        if person is None or not latest.get(person, (_NEVER, False))[1]
    ]


TABLES = (EVENTS, SESSIONS, PAGE_VIEWS, RUNAWAYS, USERS)


def published_rows(line: Line) -> dict[str, Counter[str]]:
    """The rows of the row-level tables as readers would get them, without what tells the delivery."""
    found: dict[str, Counter[str]] = {}
    for table in publishables(line.pipeline.table, line.pipeline.built_version()):
        if table.spec in TABLES:
            names = [name for name in table.spec.column_names if name not in ("batch_id", "received_at")]
            chosen = ", ".join(f'"{name}"' for name in names)
            rows = line.con.execute(f"select {chosen} from ({table.select or table.snapshot.select()})").fetchall()
            found[table.spec.name] = Counter(map(repr, rows))
    return found


def days_shown(line: Line, days: Sequence[date] | None = None) -> dict[date, int]:
    """Events that readers would get, by day: what a table that is summed by day would hold if it was built now."""
    events = publishables(line.pipeline.table, line.pipeline.built_version())[0]
    counted = line.con.execute(f"select timestamp::date, count(*) from ({events.select}) group by 1").fetchall()
    return {day: count for day, count in counted if days is None or day in days}


@settings(max_examples=4, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data(), events=st.lists(any_event(), min_size=4, max_size=14))
def test_readers_see_what_they_would_if_the_events_of_those_who_refused_had_never_come(
    data: st.DataObject, events: list[Event], tmp_path_factory: pytest.TempPathFactory
) -> None:
    # A home without any event has no version to show.
    events = [{**event, "message_id": f"m{n}"} for n, event in enumerate([*events, an_event("", tenant_id="globex")])]
    order = data.draw(st.permutations(events))
    cut = data.draw(st.integers(1, len(events) - 1))
    folder = tmp_path_factory.mktemp("consent")
    config = a_config(folder / "config")
    summed: dict[date, int] = {}
    with Line.at(folder / "home", config) as line, Line.at(folder / "reference", config) as reference:
        for part in (order[:cut], order[cut:]):
            line.load(part)
            days = line.pipeline.pending(line.con)
            line.sessions(days)
            # In the place of dbt: what is summed of a day stays as it was built.
            days = sorted({*days, *unsettled(line.con, line.pipeline.home)})
            summed = {day: count for day, count in summed.items() if day not in days} | days_shown(line, days)
            mark_built(line.con, line.pipeline.home, days, line.pipeline.built_version())
            line.pipeline.rebuild_users(line.con)
            assert line.pipeline.pending(line.con) == []
        kept = with_consent(events)
        reference.load(kept)
        reference.sessions()
        reference.pipeline.rebuild_users(reference.con)
        assert published_rows(line) == published_rows(reference)
        assert summed == Counter(event["timestamp"].date() for event in kept)


# What is published

CANARY = "canary"


def a_person(name: str, *, of: str | None = None, **changes: Any) -> list[Event]:
    """A view without a name, and a week later a view and a sale with it; all that a sender fills bears `of`."""
    word = of or "usual"
    about = {"anonymous_id": f"{word}-device-{name}", "page_url": f"https://acme.test/{word}", "campaign": word, "region": word}
    sale = {"event": "Product Ordered", "product_id": word, "revenue": 2, "quantity": 1, "currency": "EUR"}
    return [
        a_view(f"{word}-{name}-1", **about, timestamp=at(day=-7), **changes),
        a_view(f"{word}-{name}-2", **about, user_id=f"{word}-{name}", **changes),
        an_event(f"{word}-{name}-3", **about, **sale, user_id=f"{word}-{name}", timestamp=at(2), **changes),
    ]


# Of other purposes, or what says who refused.
_NOT_OF_THE_PURPOSE = {"consent_status", "rejected_events", "batches", "quality_results", "field_taxonomy"}


def tables_with(path: Path, word: str) -> set[str]:
    """The published tables in which a word stands."""
    with duckdb.connect(str(path.resolve()), read_only=True) as con:
        tables = [name for (name,) in con.execute("select table_name from information_schema.tables").fetchall()]
        return {name for name in tables if word in repr(con.execute(f'from "{name}"').fetchall())}


def sums(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every table of the purpose that is summed, without the events that speak of consent themselves."""
    return {
        "events_daily": rows_of(path, f"from events_daily where event not in ('{GRANTED}', '{WITHDRAWN}') order by all"),
        "revenue_daily": rows_of(path, "from revenue_daily order by all"),
        "cohorts": rows_of(path, "select cohort_users, active_users from cohort_retention_weekly order by all"),
        "funnel": rows_of(path, "select date, step, people from funnel_daily order by all"),
    }


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two versions: of six people, and after one of them withdrew on a device that was used without a name."""
    folder = tmp_path_factory.mktemp("published")
    with Line.at(folder / "home", a_config(folder / "config")) as line:
        line.load([event for n in range(5) for event in a_person(str(n))] + a_person("ann", of=CANARY))
        line.rebuild()
        line.publish()
        line.load([says(WITHDRAWN, f"{CANARY}-no", anonymous_id=f"{CANARY}-device-ann", timestamp=at(day=1))])
        line.rebuild()
        line.publish()
    return folder


@pytest.fixture
def refused(versions: Path, tmp_path: Path) -> Iterator[Line]:
    shutil.copytree(versions, tmp_path / "copy", symlinks=True)
    with Line.at(tmp_path / "copy" / "home", tmp_path / "copy" / "config") as line:
        yield line


def version(line: Line, number: int) -> Path:
    return line.home / "published" / "versions" / f"v{number}.duckdb"


def test_who_withdrew_leaves_every_table_of_the_purpose_history_included(versions: Path) -> None:
    first, second = (versions / "home" / "published" / "versions" / f"v{n}.duckdb" for n in (1, 2))
    assert tables_with(first, CANARY) >= {"events", "sessions", "page_views", "users", "events_daily"}
    assert tables_with(second, CANARY) - _NOT_OF_THE_PURPOSE == set()
    assert rows_of(second, "select person_id, purpose, status, since from consent_status") == [
        (f"{CANARY}-ann", "analytics", "withdrawn", at(day=1))
    ]
    assert rows_of(second, "select sum(events), sum(revenue) from events_daily") == [(15, 10)]
    assert rows_of(second, "select max(cohort_users) from cohort_retention_weekly") == [(5,)]


def test_what_is_withheld_is_counted(versions: Path) -> None:
    path = versions / "home" / "published" / "versions" / "v2.duckdb"
    assert rows_of(path, "from withheld_events") == [("acme", 4)]
    assert rows_of(path, "select (select count(*) from events) + 4 = (select sum(events) from batches)") == [(True,)]


def test_an_export_counts_nobody_who_withdrew(refused: Line) -> None:
    stages = refused.pipeline
    with egress(stages.settings, declared_roles(stages.settings, stages.specs), stages.table) as answers:
        found = answers.answer("analyst", "acme", Request(("events", "revenue"))).rows
    # All of the others', and none that is masked: six people in a group would show.
    assert [(currency, events, masked) for currency, events, _, masked in found] == [("(none)", 10, 0), ("EUR", 5, 0)]


def test_who_consents_again_is_back_with_all_history(refused: Line) -> None:
    refused.load([says(GRANTED, "yes", user_id=f"{CANARY}-ann", anonymous_id=None, timestamp=at(day=2))])
    refused.rebuild()
    path = refused.publish().path
    assert sums(path) == sums(version(refused, 1))
    assert rows_of(path, "select status from consent_status") == [("granted",)]
    assert rows_of(path, "from withheld_events") == []


def test_a_leak_refuses_the_publish_and_says_where(refused: Line) -> None:
    before = current_version(refused.pipeline.home)
    replace_all(refused.pipeline.table(CONSENT_EXCEPTIONS), refused.con, CONSENT_EXCEPTIONS.empty_select)
    with pytest.raises(PublishRefused, match=r"consent_leaks \(.*\): found \('events', 1\); the published version stays"):
        refused.publish()
    assert current_version(refused.pipeline.home) == before


def test_a_sum_that_still_counts_somebody_who_withdrew_refuses_the_publish(refused: Line) -> None:
    (cohorts,) = (spec for spec in refused.pipeline.specs if spec.name == "cohort_retention_weekly")
    stored = refused.pipeline.table(cohorts).snapshot().select()
    refused.con.execute(f"create temp table spoilt as select * replace (cohort_users + 1 as cohort_users) from ({stored})")
    replace_all(refused.pipeline.table(cohorts), refused.con, "select * from spoilt")
    with pytest.raises(PublishRefused, match=r"consent_leaks .*cohort_retention_weekly', 'acme'"):
        refused.publish()


@pytest.mark.parametrize("stage", ["build_sessions", "mark_sessions"])
def test_a_rebuild_that_is_killed_publishes_nothing_half(refused: Line, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    class Killed(BaseException):
        pass

    def killed(*arguments: Any, **options: Any) -> None:
        raise Killed

    refused.load([says(WITHDRAWN, "no", user_id="usual-1", anonymous_id=None, timestamp=at(day=2))])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(f"analytics_assets.pipeline.{stage}", killed)
        refused.sessions()
    with Line.at(refused.home, refused.pipeline.settings.config) as again:
        days = [at(day=day).date() for day in (-7, 0, 2)]
        assert again.pipeline.pending(again.con) == days
        with pytest.raises(Waiting, match=r"[23] days wait for a rebuild"):
            again.publish()
        again.sessions()
        assert unsettled(again.con, again.pipeline.home) == days
        assert not any(name.startswith("usual-1-") for name in shown_to_readers(again))


def test_a_withdrawal_counts_on_when_its_event_has_aged_out(line: Line) -> None:
    seen = [an_event("theirs", user_id="u1", timestamp=at(5)), an_event("other", anonymous_id="device-2")]
    assert seen_after(line, says(WITHDRAWN, "no", user_id="u1", timestamp=at(day=-9)), *seen) == ["other"]
    old = f"timestamp < timestamp '{at(day=-1)}'"
    with line.pipeline.home.lock(INTAKE_LOCK):
        assert forget(line.pipeline.intake, line.con, EXPIRED, "aged out", line.now, old)
    assert seen_after(line, an_event("again", user_id="u1", timestamp=at(6))) == ["other"]
