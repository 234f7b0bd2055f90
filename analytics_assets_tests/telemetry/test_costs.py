"""What a step cost: the shares are the whole, and the declared prices are read with care."""

from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.settings import CONFIG, ConfigError
from analytics_assets.telemetry.costs import MOST_TENANTS, NO_TABLE, cost, query_cost, query_costs, split, unit_costs
from analytics_assets.telemetry.prices import Prices
from analytics_assets.telemetry.rows import row
from analytics_assets.telemetry.tables import UNIT_COSTS, UnitCost
from analytics_assets_tests.telemetry.test_queries import a_query
from analytics_assets_tests.telemetry.test_rows import HEALTHY, SEEN

PRICES = Prices(
    basis="assumed",
    currency="EUR",
    processor_hour=Decimal("0.04"),
    memory_gib_hour=Decimal("0.005"),
    moved_gib=Decimal("0.0002"),
)
GIB = 2**30
HOUR = replace(
    row(HEALTHY, SEEN),
    cpu_seconds=3600.0,
    wall_seconds=7200.0,
    peak_memory_bytes=4 * GIB,
    bytes_read=GIB,
    bytes_written=2 * GIB,
)
BILLIONTH = Decimal("1e-9")

amounts = st.integers(0, 10**12).map(lambda units: units * BILLIONTH)
weights = st.dictionaries(st.text(max_size=5), st.integers(0, 10**9), min_size=1, max_size=12)


@given(amounts, weights)
def test_shares_are_the_whole_and_none_is_off_by_more_than_a_billionth(whole: Decimal, weights: dict[str, int]) -> None:
    shares = split(whole, weights)
    assert shares.keys() == weights.keys()
    assert sum(shares.values()) == whole
    total = sum(weights.values())
    for name, share in shares.items():
        fair = whole * weights[name] / total if total else whole / len(weights)
        assert share >= 0 and abs(share - fair) <= BILLIONTH


@given(
    st.lists(st.floats(0, 1e6), min_size=2, max_size=2),
    st.integers(0, 2**40),
    st.dictionaries(st.text(max_size=5), st.integers(0, 10**9)),
    st.dictionaries(st.text(min_size=1, max_size=3), st.integers(0, 10**9), max_size=2 * MOST_TENANTS),
)
def test_the_rows_of_a_step_sum_to_its_cost_whoever_they_are_of(
    seconds: list[float], size: int, written: dict[str, int], tenants: dict[str, int]
) -> None:
    seen = {**SEEN, "cpu_seconds": seconds[0], "seconds": seconds[1], "peak": size, "read": size, "rows_written": written}
    step = row(HEALTHY, seen)
    shares = unit_costs(step, PRICES, dict.fromkeys(written, tenants))
    assert sum(share.cost for share in shares) == cost(step, PRICES)
    assert len({(share.table, share.tenant) for share in shares}) == len(shares)


def test_a_cost_is_processor_memory_and_bytes() -> None:
    assert cost(HOUR, PRICES) == Decimal("0.04") + 8 * Decimal("0.005") + 3 * Decimal("0.0002")


def test_tables_share_by_rows_written() -> None:
    shares = {share.table: share.cost for share in unit_costs(HOUR, PRICES)}
    assert shares == {"sessions": Decimal("0.047016667"), "page_views": Decimal("0.033583333")}


def test_a_table_of_several_tenants_is_shared_by_their_rows() -> None:
    shares = unit_costs(HOUR, PRICES, {"sessions": {"acme": 3, "globex": 1, "idle": 0}})
    assert [(share.table, share.tenant, share.cost) for share in shares] == [
        ("page_views", None, Decimal("0.033583333")),
        ("sessions", "acme", Decimal("0.035262500")),
        ("sessions", "globex", Decimal("0.011754167")),
    ]


def test_a_step_of_one_tenant_is_all_theirs() -> None:
    shares = unit_costs(replace(HOUR, tenant="acme"), PRICES, {"sessions": {"globex": 1}})
    assert {share.tenant for share in shares} == {"acme"}


def test_the_smallest_of_very_many_tenants_stand_together() -> None:
    rows = {f"large-{number}": 10 for number in range(MOST_TENANTS)} | {f"small-{number}": 1 for number in range(20)}
    shares = unit_costs(replace(HOUR, rows_by_table='{"events": 1}'), PRICES, {"events": rows})
    assert len(shares) == MOST_TENANTS + 1
    (rest,) = [share.cost for share in shares if share.tenant is None]
    assert rest == pytest.approx(2 * max(share.cost for share in shares if share.tenant), abs=Decimal("3e-9"))


def test_a_query_costs_the_tables_that_it_reads_in_equal_parts() -> None:
    query = a_query(cpu_seconds=3600.0, seconds=7200.0, memory_bytes=4 * GIB, bytes_read=GIB, tables='["events", "users"]')
    shares = query_costs(query, PRICES)
    assert [(share.table, share.unit, share.cost) for share in shares] == [
        ("events", "query", Decimal("0.0401")), ("users", "query", Decimal("0.0401"))
    ]  # fmt: skip
    assert sum(share.cost for share in shares) == query_cost(query, PRICES)


def test_a_step_that_wrote_nothing_counts_for_what_it_was_to_make() -> None:
    nothing = replace(HOUR, rows_by_table=None)
    assert {share.table: share.cost for share in unit_costs(nothing, PRICES)} == dict.fromkeys(
        ["page_views", "sessions"], Decimal("0.0403")
    )
    assert [share.table for share in unit_costs(replace(nothing, assets="[]"), PRICES)] == [NO_TABLE]


def test_a_step_that_nothing_measured_costs_nothing() -> None:
    assert sum(share.cost for share in unit_costs(row(replace(HEALTHY, ended_at=None), None), PRICES)) == 0


def test_a_row_has_the_columns_of_the_table() -> None:
    assert tuple(field.name for field in fields(UnitCost)) == UNIT_COSTS.column_names


def test_the_prices_that_come_with_the_project_say_that_they_are_assumed() -> None:
    assert Prices.load(CONFIG / "prices.yaml") == PRICES


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("processor_hour: -1", "prices.yaml:3: processor_hour: Input should be greater than or equal to 0"),
        ("currency: euro", "prices.yaml:2: currency: String should match pattern"),
        ("basis: guessed", "prices.yaml:1: basis: Input should be 'assumed' or 'bill'"),
    ],
)
def test_a_wrong_price_is_one_line_with_its_place(tmp_path: Path, line: str, said: str) -> None:
    lines = {"basis": "basis: bill", "currency": "currency: EUR", "processor_hour": "processor_hour: 1"}
    lines[line.split(":")[0]] = line
    path = tmp_path / "prices.yaml"
    path.write_text("\n".join([*lines.values(), "memory_gib_hour: 1", "moved_gib: 1"]))
    with pytest.raises(ConfigError) as error:
        Prices.load(path)
    assert str(error.value).startswith(said)
