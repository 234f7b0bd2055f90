"""What Dagster's checks say of verdicts: an unknown is never shown as a plain pass."""

from dataclasses import replace
from datetime import date

import pytest

from analytics_assets.defs.quality import _result
from analytics_assets.quality.tables import QualityResult, Success
from analytics_assets.warehouse.expectation import Expectation
from analytics_assets_tests.builders import NOON

FEW = Expectation("few", "Few.", "count(*)", high=5)


def a_verdict(success: Success, reason: str = "Few.") -> QualityResult:
    day = date(2026, 3, 10)
    return QualityResult("events", None, day, "few", "block", success, None, "at most 5", reason, None, 1, "run", NOON)


UNKNOWN = a_verdict("unknown", "999 tenants: too few rows")


@pytest.mark.parametrize(
    ("found", "passed", "said"),
    [
        ([a_verdict("pass")], True, None),
        ([a_verdict("pass"), UNKNOWN], True, "passed where it could be judged; unknown: 999 tenants: too few rows"),
        ([UNKNOWN], False, "unknown: too little is known yet"),
        ([], True, "nothing was there to judge"),
    ],
)
def test_a_check_says_what_is_unknown(found: list[QualityResult], passed: bool, said: str | None) -> None:
    check = _result("events", FEW, found)
    assert (check.passed, check.description) == (passed, said)


@pytest.mark.parametrize(("severity", "shown"), [("block", "ERROR"), ("warn", "WARN")])
def test_a_failure_that_only_warns_though_its_expectation_blocks_fails_no_run(severity: str, shown: str) -> None:
    check = _result("events", FEW, [replace(a_verdict("fail"), severity=severity)])
    assert (check.passed, check.severity.name) == (False, shown)
