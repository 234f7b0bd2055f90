"""Great Expectations judges: what is out of bounds fails, what cannot be known is unknown, and the rest passes."""

from collections.abc import Mapping
from datetime import date, datetime, timedelta

import pytest

from analytics_assets.quality.history import History
from analytics_assets.quality.judge import Occasion, verdicts, with_the_absent
from analytics_assets.quality.tables import QualityResult
from analytics_assets.warehouse.expectation import Expectation, Suite, Usual, no_row
from analytics_assets.warehouse.spec import Column, TableSpec

TABLE = TableSpec("things", "Things.", (Column("tenant_id", "VARCHAR", "Tenant."), Column("date", "DATE", "Day.")), "date", ())
DAY = date(2026, 3, 10)
AFTER = datetime.fromisoformat("2026-03-11 06:00:00")
BAD = no_row("things_are_good", "No thing is bad.", "bad")
FEW = Expectation("things_share", "Few.", "avg(bad)", low=0.1, high=0.5, severity="warn")
VOLUME = Usual("things_volume", "As many.", "count(*)", weekday=True, ratio=True, tolerance=2, least=20,
               absent_is_zero=True, whole_day=True)  # fmt: skip
SUITE = Suite(TABLE, (BAD, FEW, VOLUME))
HISTORY = History([("things", "acme", DAY - timedelta(weeks=n), "things_volume", "block", "pass", 100.0) for n in range(1, 9)])


def judged(
    cells: Mapping[str, Mapping[str, float | None]], *, history: History = HISTORY, now: datetime = AFTER, told_of: date = DAY
) -> dict[tuple[str, str | None], QualityResult]:
    """The verdicts by expectation and tenant, of numbers by tenant; what a test does not name is healthy."""
    healthy = {"things_schema": 0.0, "things_are_good": 0.0, "things_share": 0.2, "things_volume": 100.0}
    whole = with_the_absent(
        SUITE, {(t, DAY): {**healthy, **numbers} for t, numbers in cells.items()}, history, {"acme": told_of}
    )
    found = list(verdicts(SUITE, whole, history, Occasion((DAY,), now, 7, "a run")))
    return {(result.expectation, result.tenant): result for result in found}


def test_healthy_numbers_pass_and_share_one_row_for_all_tenants() -> None:
    found = judged({"acme": {}, "globex": {}}, history=History([]))
    good = found["things_are_good", None]
    assert (good.success, good.partition, good.version, good.run) == ("pass", DAY, 7, "a run")


def test_a_number_out_of_bounds_fails_for_its_tenant_alone() -> None:
    found = judged({"acme": {"things_are_good": 3.0}, "globex": {}})
    assert found["things_are_good", "acme"].success == "fail"
    assert found["things_are_good", "acme"].observed == 3
    assert found["things_are_good", "acme"].expected == "at most 0"
    assert found["things_are_good", None].success == "pass"


@pytest.mark.parametrize(("share", "success"), [(0.1, "pass"), (0.5, "pass"), (0.09, "fail"), (0.51, "fail")])
def test_bounds_belong_to_what_is_expected(share: float, success: str) -> None:
    found = judged({"acme": {"things_share": share}})
    assert found["things_share", "acme" if success == "fail" else None].success == success


def test_what_could_not_be_measured_is_unknown() -> None:
    found = judged({"acme": {"things_share": None}})
    assert found["things_share", None].success == "unknown"


@pytest.mark.parametrize(("volume", "success"), [(100.0, "pass"), (190.0, "pass"), (210.0, "fail"), (40.0, "fail")])
def test_a_volume_is_compared_with_clean_days_before(volume: float, success: str) -> None:
    assert judged({"acme": {"things_volume": volume}})["things_volume", "acme"].success == success


def test_without_history_a_volume_is_unknown_and_kept_for_later() -> None:
    found = judged({"acme": {"things_volume": 5.0}}, history=History([]))["things_volume", "acme"]
    assert (found.success, found.observed) == ("unknown", 5)
    assert found.reason == "0 clean same weekdays are known, 4 are needed"


def test_a_tenant_gone_silent_fails_while_others_are_there() -> None:
    found = judged({"globex": {}})
    assert (found["things_volume", "acme"].success, found["things_volume", "acme"].observed) == ("fail", 0)
    assert ("things_are_good", "acme") not in found


def test_a_tenant_is_not_missed_on_a_day_of_which_its_deliveries_have_not_told_yet() -> None:
    assert ("things_volume", "acme") not in judged({"globex": {}}, told_of=DAY - timedelta(days=1))


def test_a_day_that_is_not_over_has_no_volume_yet() -> None:
    found = judged({"acme": {"things_volume": 3.0}}, now=AFTER - timedelta(hours=7))["things_volume", "acme"]
    assert (found.success, found.reason) == ("unknown", "the day is not over")


def test_a_table_without_rows_has_a_verdict_all_the_same() -> None:
    found = judged({}, history=History([]))
    assert found["things_are_good", None].success == "pass"
