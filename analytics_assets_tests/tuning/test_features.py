"""What is known of a run as it begins holds nothing of what came after, and what came of it is told when it is over."""

from dataclasses import asdict, replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.tuning.classes import CLASSES, input_class
from analytics_assets.tuning.features import LABELS, STEP_FEATURES, StepFeatures, features
from analytics_assets.tuning.history import Begun, StepRun
from analytics_assets_tests.builders import NOW
from analytics_assets_tests.tuning.steps import a_run, daily

MINUTE = timedelta(minutes=1)

results = st.builds(
    lambda need, seconds, failed: {
        "need_mb": None if failed else need, "seconds": seconds, "failed": failed, "over_mb": (512,) if failed else (),
        "outcome": "out_of_memory" if failed else "success",
    },
    st.floats(1, 500), st.floats(0, 7200), st.booleans(),
)  # fmt: skip
runs = st.builds(
    lambda minute, size, came: a_run(NOW + minute * MINUTE, begun=Begun(input_bytes=size), **came),
    st.integers(0, 600), st.none() | st.integers(0, 10**10), results,
)  # fmt: skip
# Of one step; each begins at another minute, which names it.
histories = st.lists(runs, min_size=1, max_size=12, unique_by=lambda run: run.began)


def known(row: StepFeatures) -> dict[str, object]:
    return {name: value for name, value in asdict(row).items() if name not in LABELS}


@given(histories, st.data())
def test_whatever_comes_after_the_begin_of_a_run_its_features_are_the_same(found: list[StepRun], data: st.DataObject) -> None:
    run = data.draw(st.sampled_from(found))
    before = [one for one in found if one.ended < run.began]
    # All others, the run among them, may take as long and end as they will, but not before it began; and others come.
    after = [
        replace(one, **came, waited=max(0.0, (run.began - one.began).total_seconds() - came["seconds"]))
        for one in found
        if one not in before and one.began <= run.began
        for came in [data.draw(results)]
    ]
    later = [one for one in data.draw(histories) if one.began > run.began]
    others = [*before, *after, *later]
    (row,) = (row for row in features({"sessions": found}, NOW + 9999 * MINUTE) if row.run_id == run.run_id)
    (same,) = (row for row in features({"sessions": others}, NOW + 9999 * MINUTE) if row.run_id == run.run_id)
    assert known(row) == known(same)


@given(histories, st.integers(0, 900))
def test_a_run_has_a_label_once_it_is_over_and_no_row_before_it_begins(found: list[StepRun], minute: int) -> None:
    now = NOW + minute * MINUTE
    rows = {row.run_id: row for row in features({"sessions": found}, now)}
    assert rows.keys() == {run.run_id for run in found if run.began <= now}
    for run in found:
        if run.run_id in rows:
            told = [getattr(rows[run.run_id], name) for name in LABELS]
            came = [run.ended, run.outcome, run.attempts, run.need_mb, run.seconds]
            assert told == (came if run.ended <= now else [None] * len(LABELS))


def test_a_row_tells_the_begin_the_input_and_the_runs_that_were_over() -> None:
    begun = Begun("refresh", "acme", "2026-03-01..2026-03-07", "abc", 2_000_000, 30_000, 2)
    hourly = [a_run(NOW - timedelta(hours=hour), need_mb=100.0 + hour, begun=begun) for hour in range(1, 25)]
    lost = a_run(NOW - timedelta(minutes=30), need_mb=None, over_mb=(512,), failed=True, outcome="out_of_memory")
    # It has begun before, and is not over.
    under_way = a_run(NOW - timedelta(minutes=2), seconds=600.0)
    *_, row = features({"sessions": [*hourly, lost, under_way, a_run(NOW, begun=begun)]}, NOW)
    assert (row.weekday, row.hour, row.days, row.tenant, row.input_class) == (5, 12, 7, "acme", "up to 3 MB")
    assert (row.runs_before, row.out_of_memory_before, row.failed_before) == (25, 1, 1)
    assert (row.last_need_mb, row.typical_need_mb, row.most_need_mb) == (101.0, 110.0, 119.0)
    assert (row.ended_at, row.need_mb) == (None, None)


def test_a_row_has_the_columns_of_its_table() -> None:
    assert tuple(StepFeatures.__dataclass_fields__) == STEP_FEATURES.column_names


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_a_larger_input_is_of_no_smaller_class(one: int, other: int) -> None:
    small, large = sorted((one, other))
    assert CLASSES.index(str(input_class(small))) <= CLASSES.index(str(input_class(large)))


def test_the_end_of_a_class_is_in_it() -> None:
    assert [input_class(size) for size in (0, 100_000, 100_001, 3_000_000, 10**16)] == [
        "up to 100 kB", "up to 100 kB", "up to 300 kB", "up to 3 MB", "over 300 TB",
    ]  # fmt: skip
    assert input_class(None) is None


def test_of_each_step_the_own_runs_count() -> None:
    found = {"sessions": daily(NOW, 3), "users": [a_run(NOW, run_id="other")]}
    rows = {(row.step, row.began_at): row.runs_before for row in features(found, NOW)}
    assert rows["users", NOW] == 0 and rows["sessions", NOW - timedelta(hours=1)] == 2
