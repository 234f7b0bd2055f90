"""What may be declared: every wrong or missing line is one sentence with its place and cure."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from analytics_assets.freshness.tiers import load_promises
from analytics_assets.settings import ConfigError
from analytics_assets_tests.builders import at
from analytics_assets_tests.freshness.declared import TABLES, TIERS, promises

HEALTHY = {"tiers": TIERS, "tables": TABLES}


def load(path: Path, declared: dict[str, Any] | str) -> Any:
    path.write_text(declared if isinstance(declared, str) else yaml.safe_dump(declared, sort_keys=False))
    return load_promises(path, TABLES, ["acme", "globex"])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "freshness.yaml"


def with_tier(name: str, **changes: Any) -> dict[str, Any]:
    changed = {key: value for key, value in {**TIERS[name], **changes}.items() if value is not None}
    return {**HEALTHY, "tiers": {**TIERS, name: changed}}


def with_tenant(**own: Any) -> dict[str, Any]:
    return {**HEALTHY, "tenants": {"acme": own}}


def test_a_healthy_file_loads_and_the_immediate_tier_is_declared_although_nothing_serves_it_yet(file: Path) -> None:
    loaded = load(file, HEALTHY)
    assert loaded.served == ("near_real_time", "hourly", "daily")
    assert loaded.tier("immediate").said == "served by the collector, which is not here yet"


def test_a_table_of_a_tenant_comes_before_its_tier_and_that_before_the_tables() -> None:
    declared = promises(
        acme={"tier": "hourly", "tables": {"cohorts": "near_real_time"}}, globex={"tables": {"events": "daily"}}
    )
    assert [declared.tier_of("acme", table) for table in TABLES] == ["hourly", "hourly", "near_real_time"]
    assert [declared.tier_of("globex", table) for table in TABLES] == ["daily", "hourly", "daily"]
    assert [declared.tier_of("initech", table) for table in TABLES] == ["near_real_time", "hourly", "daily"]


@pytest.mark.parametrize(
    ("declared", "place", "said"),
    [
        ({"tiers": TIERS}, "tiers", "tables: Field required"),
        ({**HEALTHY, "tables": {"events": "daily"}}, "tables", "the published table 'cohorts' has no tier; name one of near_"),
        ({**HEALTHY, "tables": {**TABLES, "x": "daily"}}, "x", "there is no published table 'x'; published are cohorts"),
        ({**HEALTHY, "tables": {**TABLES, "users": "weekly"}}, "users", "tables.users: Input should be 'immediate'"),
        ({**HEALTHY, "tables": {**TABLES, "users": "immediate"}}, "users", "tier 'immediate' is served by the collector"),
        ({**HEALTHY, "tenants": {"nobody": {}}}, "nobody", "tenant 'nobody' is not declared in tenants.yaml; add it there or"),
        (with_tenant(tier="fast"), "tier", "tenants.acme.tier: Input should be 'immediate', 'near_real_time'"),
        (with_tenant(tier="immediate"), "tier", "tier 'immediate' is served by the collector"),
        (with_tenant(tables={"sales": "daily"}), "sales", "there is no published table 'sales'"),
        (with_tenant(closed=["sunday"]), "acme", "tenants.acme: closed says which days are no silence; say also expect_"),
        (with_tenant(closed=["sonntag"], expect_events_every_hours=1), "- sonntag", "tenants.acme.closed"),
        (with_tenant(pauses=[{"first": at(1), "last": at(), "reason": "moves"}]), "- first", "tenants.acme.pauses.0: it ends"),
        (with_tenant(speed=1), "speed", "tenants.acme.speed: Extra inputs are not permitted"),
        (with_tier("hourly", promise_minutes=0), "promise_minutes", "tiers.hourly.promise_minutes: Input should be greater"),
        (with_tier("hourly", start_after_minutes=60), "hourly", "tiers.hourly: work may start 60 minutes after a receipt, but"),
        (with_tier("hourly", start_after_minutes=None), "hourly", "tiers.hourly: say when work starts: either start_after_"),
        (with_tier("hourly", queue="daily"), "tiers", "tiers: two tiers have the queue 'daily', where one would wait for the"),
        (with_tier("hourly", queue=None), "hourly", "tiers.hourly: name the queue of its runs"),
        (with_tier("daily", start_at="25:00"), "start_at", "tiers.daily.start_at: '25:00' is no time of day; write it as"),
        (with_tier("daily", promise_minutes=1440), "daily", "tiers.daily: work may start 1440 minutes after a receipt, but"),
        (with_tier("near_real_time", promise_minutes=70), "tiers", "tiers: near_real_time must promise fewer minutes"),
        ({**HEALTHY, "tiers": {n: t for n, t in TIERS.items() if n != "daily"}}, "tiers", "tiers.daily: Field required"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_a_sentence_with_its_place(file: Path, declared: dict[str, Any], place: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(file, declared)
    lines = file.read_text().splitlines()
    name, number, sentence = str(raised.value).split(":", 2)
    assert name == "freshness.yaml"
    assert sentence.strip().startswith(said)
    assert lines[int(number) - 1].strip().startswith(place)


def test_a_table_named_twice_is_refused(file: Path) -> None:
    text = yaml.safe_dump(HEALTHY) + "tables:\n  events: daily\n"
    with pytest.raises(ConfigError, match=r"freshness\.yaml:\d+: 'tables' is declared twice"):
        load(file, text)


@pytest.mark.parametrize(
    ("tier", "received", "now", "starts"),
    [
        ("near_real_time", at(), at(), True),
        ("hourly", at(), at(39), False),
        ("hourly", at(), at(40), True),
        # noon, the start at 02:30 of the next day, and a receipt just after it
        ("daily", at(), at(14 * 60 + 29), False),
        ("daily", at(), at(14 * 60 + 30), True),
        ("daily", at(14 * 60 + 31), at(15 * 60), False),
        ("daily", at(14 * 60 + 31), at(14 * 60 + 30, day=1), True),
        # the night was missed: the first look afterwards starts it
        ("daily", at(), at(22 * 60), True),
    ],
)
def test_a_tier_starts_after_its_wait_or_at_its_hour(tier: str, received: Any, now: Any, starts: bool) -> None:
    assert promises().tier(tier).starts(received, now) is starts
