"""What steps may have, from what they took to what they get: learned, decided, applied to a real step, and taken back."""

from collections.abc import Iterator
from dataclasses import astuple, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from analytics_assets.audit.log import utc_now
from analytics_assets.defs.resource_configs import look, retrain
from analytics_assets.pipeline import Pipeline
from analytics_assets.telemetry.tables import STEP_TELEMETRY
from analytics_assets.tuning.step_resources import StepResources
from analytics_assets.warehouse.records import write
from analytics_assets_tests.defs.home import DataHome, a_data_home
from analytics_assets_tests.defs.test_limits import limits, run, small
from analytics_assets_tests.test_cli import analytics
from analytics_assets_tests.tuning.steps import MB, a_row

# A step as `test_limits` has it, that ran once a day and needed a quarter of what it had.
SMALL = {"step": "small", "assets": '["small"]', "config_source": "default", "duckdb_peak_bytes": 120 * MB,
         "input_bytes": 5 * MB}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DataHome]:
    with a_data_home(tmp_path) as home:
        (home.settings.config / "limits.yaml").write_text("{}\n")
        yield home


def ran(stages: Pipeline, now: datetime, days: int) -> None:
    """The step ran once a day, until yesterday."""
    rows = [a_row(now - timedelta(days=day), f"run-{day}", **SMALL) for day in range(1, days + 1)]
    with stages.connect() as con:
        write(con, stages.home, STEP_TELEMETRY, [astuple(row) for row in rows])


def decided(stages: Pipeline, now: datetime) -> list[str]:
    with stages.connect() as con:
        return [row.kind for row in look(stages, con, now).decisions]


def test_what_is_learned_is_applied_where_a_person_says_act_and_one_command_takes_it_back(home: DataHome) -> None:
    stages, now = Pipeline(home.settings), utc_now().replace(microsecond=0)
    ran(stages, now, 40)
    with stages.connect() as con:
        said, _ = retrain(stages, con, now)
        assert said.startswith("model 1 was promoted: small 1") and "MB (saves " in said
        again, _ = retrain(stages, con, now)
        assert again == "no model is better than what is in use: model 1 stays"
    # As delivered it is only written down.
    assert decided(stages, now) == ["advice"]
    assert limits(run(home, small)[0]) == [("success", 512, "default")]
    (home.settings.config / "tuning.yaml").write_text("steps: {small: act}\n")
    ran(stages, now, 40)
    assert decided(stages, now) == ["change", "timeout"]
    assert "timeout of small" in analytics("audit", "report", "--json").out
    told = analytics("tuning", "explain", "small").out
    assert "by model 1 since" in told and "Its baseline: 40 runs" in told
    ((outcome, memory, source),) = limits(run(home, small)[0])
    assert (outcome, source) == ("success", "model 1") and 120 <= memory < 256
    assert "no model is in use any more" in analytics("tuning", "rollback", "--reason", "the data will grow").out
    assert limits(run(home, small)[0])[-1] == ("success", 512, "default")


def test_a_pin_wins_at_the_next_run_and_is_shown_until_it_is_released(home: DataHome) -> None:
    stages = Pipeline(home.settings)
    ran(stages, utc_now(), 12)
    pinned = analytics("tuning", "pin", "small", "--memory-mb", "300", "--threads", "1", "--reason", "the sale on Friday")
    assert pinned.out.startswith("small has 300 MB and 1 thread from its next run on, until ")
    assert limits(run(home, small)[0])[-1] == ("success", 300, "pinned")
    assert "pin" in analytics("tuning", "status").out
    told = analytics("tuning", "explain", "small").out
    assert "the reason given: the sale on Friday" in told
    assert analytics("tuning", "release", "small", "--reason", "it is over").out.startswith("small has 512 MB and 2 threads")
    refused = analytics("tuning", "release", "small", "--reason", "once more")
    assert refused.err.startswith("analytics: nobody pinned or vetoed small")


def test_what_no_step_can_have_and_no_step_makes_is_one_line(home: DataHome) -> None:
    stages = Pipeline(home.settings)
    assert "run `analytics telemetry collect` after a run" in analytics("tuning", "veto", "small", "--reason", "why").err
    ran(stages, utc_now(), 12)
    (home.settings.config / "tuning.yaml").write_text("memory: {budget_mb: 1000}\n")
    much = analytics("tuning", "pin", "small", "--memory-mb", "900", "--reason", "the sale").err
    assert much.startswith("analytics: 900 MB are more than the 700 MB that a step may have on this machine")
    unknown = analytics("tuning", "veto", "smal", "--reason", "why").err
    assert unknown == "analytics: no step of the name smal has run with DuckDB, and none that makes it; known are small\n"


def test_a_freeze_stops_a_change_and_absurd_telemetry_is_counted(home: DataHome) -> None:
    stages, now = Pipeline(home.settings), utc_now().replace(microsecond=0)
    (home.settings.config / "tuning.yaml").write_text("mode: act\n")
    ran(stages, now, 40)
    with stages.connect() as con:
        retrain(stages, con, now)
        look(stages, con, now)
        stages.levels.turn_gate(con, "frozen", "a release went wrong", "anna", now)
        looked = look(stages, con, now)
        assert (looked.decisions, [row.source for row in looked.standings]) == ((), ["preset"])
        assert "releases are frozen since" in looked.standings[0].reasons
        bad = replace(a_row(now, "bad", **SMALL), wall_seconds=-1.0)  # type: ignore[arg-type]
        write(con, stages.home, STEP_TELEMETRY, [astuple(bad)])
        assert StepResources.declared(stages.settings).history(con, now).set_aside == {"a time or size is negative": 1}
