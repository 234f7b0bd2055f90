"""Whose work a step was: by the rows of tenants, on the days of its run."""

from dataclasses import replace

from analytics_assets.events.schema import EVENTS
from analytics_assets.telemetry import tenants
from analytics_assets.telemetry.rows import row
from analytics_assets_tests.builders import NOON, Line, an_event, at
from analytics_assets_tests.telemetry.test_rows import HEALTHY, SEEN

STEP = row(HEALTHY, SEEN)


def test_a_step_is_shared_by_the_rows_that_tenants_have_on_its_days(line: Line) -> None:
    line.load(
        [an_event("m0", tenant_id="anna@example.com"), an_event("m1"), an_event("m2"), an_event("m3", tenant_id="globex")]
    )
    line.load([an_event(f"n{number}", tenant_id="globex", timestamp=at(day=1)) for number in range(5)])
    found = tenants.Tenants(line.con, line.pipeline.home.warehouse, line.pipeline.specs, ["acme", "globex"])
    on_day = replace(STEP, partition=str(NOON.date()))
    assert found.of(on_day, [EVENTS.name]) == {"events": {"acme": 2, "globex": 1}}
    # Of sessions there are none yet, and a publish has no rows of its own: their events count.
    assert found.of(on_day, ["sessions"]) == {"sessions": {"acme": 2, "globex": 1}}
    assert found.of(on_day, ["analytics_duckdb"]) == {"analytics_duckdb": {"acme": 2, "globex": 1}}
    assert found.of(replace(STEP, partition=None), ["users"]) == {"users": {"acme": 2, "globex": 6}}
    assert not (line.pipeline.home.warehouse / "users").exists()
    # What was rejected may name anybody as its tenant, who is none.
    assert found.of(replace(STEP, partition=None), ["rejected_events"]) == {"rejected_events": {"acme": 2, "globex": 6}}
    # What a step took in it has told itself, and of a step of one tenant all is known.
    assert found.of(replace(on_day, rows_by_tenant='{"acme": 9}'), [EVENTS.name]) == {"events": {"acme": 9}}
    assert found.of(replace(on_day, tenant="acme"), [EVENTS.name]) == {}
