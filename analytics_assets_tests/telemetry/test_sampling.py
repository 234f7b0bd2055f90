"""How often DuckDB's profile is taken: what it costs stays small beside the step, and no step is forgotten."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.telemetry.sampling import SHARE, STATEMENT_SECONDS, Known, chosen, is_news, known_of, note, one_in

SMALL, LARGE = Known(cpu_seconds=0.2, queries=43), Known(cpu_seconds=20.0, queries=43)
RUNS = [f"run-{number}" for number in range(1000)]


@given(cpu=st.floats(0.05, 1e6), queries=st.integers(0, 10_000))
def test_a_run_of_the_many_costs_no_more_than_the_share(cpu: float, queries: int) -> None:
    often = one_in(Known(cpu, queries))
    assert often == 100 or queries * STATEMENT_SECONDS / often <= cpu * SHARE
    # And no fewer than that allows.
    assert often == 1 or queries * STATEMENT_SECONDS / (often - 1) > cpu * SHARE


def test_a_step_that_nothing_is_known_of_or_that_is_large_is_always_profiled() -> None:
    assert all(chosen(None, run, "sessions") and chosen(LARGE, run, "sessions") for run in RUNS)


def test_a_small_step_is_profiled_in_some_runs_and_not_in_the_same_ones_as_another() -> None:
    first, other = ({run for run in RUNS if chosen(SMALL, run, step)} for step in ("intake", "sessions"))
    assert one_in(SMALL) == 18
    assert 35 < len(first) < 80
    assert first != other


@pytest.mark.parametrize("known", [Known(0.0, 5), Known(-1.0, 5)])
def test_a_step_that_took_no_time_at_all_is_not_forgotten(known: Known) -> None:
    assert any(chosen(known, run, "sessions") for run in RUNS)


def test_a_run_that_took_about_as_much_is_no_news() -> None:
    assert not is_news(Known(0.21, 43), SMALL) and not is_news(Known(0.19, 43), SMALL)
    assert is_news(SMALL, None) and is_news(Known(0.1, 43), SMALL) and is_news(LARGE, SMALL)


def test_what_a_step_took_is_kept_for_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    note(path, "sessions", LARGE)
    note(path, "intake", SMALL)
    assert (known_of(path, "intake"), known_of(path, "sessions"), known_of(path, "marts")) == (SMALL, LARGE, None)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[1]", '{"intake": 1}', '{"intake": {"cpu_seconds": "much", "queries": 1}}',
        '{"intake": {"cpu_seconds": NaN, "queries": 1}}', '{"intake": {"cpu_seconds": 1, "queries": 1e400}}',
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_as_good_as_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "known.json"
    path.write_text(text)
    assert known_of(path, "intake") is None
    note(path, "intake", SMALL)
    assert known_of(path, "intake") == SMALL
