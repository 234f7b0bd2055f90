"""The bundled retail sample gives the published truth, however it arrives."""

from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from analytics_assets.settings import PROJECT
from analytics_assets.sources.readers import slices
from analytics_assets_tests.sources.reading import RECEIVED, SOURCES, content, read, reread, utc

SAMPLE = PROJECT / "data/sample/online_retail/online_retail.parquet"


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A few hundred lines of the sample in every format."""
    folder = tmp_path_factory.mktemp("retail")
    scan = f"read_parquet('{SAMPLE}', file_row_number = true)"
    # A further column disturbs nobody, whatever it is called.
    rows = f"(select * exclude (file_row_number), 1 as __rn from {scan} where file_row_number % 2000 = 0)"
    with duckdb.connect() as con:
        for name, options in [("parquet", ""), ("csv", ", header"), ("tsv", ", header, delimiter '\t'"), ("json", "")]:
            form = {"tsv": "csv"}.get(name, name)
            con.execute(f"copy {rows} to '{folder / f'few.{name}'}' (format {form}{options})")
    return {name: folder / f"few.{name}" for name in ("parquet", "csv", "tsv", "json")}


def test_the_whole_sample_meets_the_truth() -> None:
    with duckdb.connect() as con:
        for _ in slices(con, SAMPLE, SOURCES["online_retail"], tenant=None, received_at=RECEIVED):
            reasons = dict(con.execute("select reason, count(*) from mapped group by 1").fetchall())
            con.execute("create table kept as select distinct on (tenant_id, message_id) * from mapped where reason is null")
        truth = con.execute(
            "select count(*), sum(revenue), count(*) filter (tenant_id = 'united-kingdom'), "
            "sum(revenue) filter (tenant_id = 'united-kingdom'), count(*) filter (event = 'Product Returned'), "
            "count(distinct tenant_id) from kept"
        ).fetchall()[0]
    assert reasons == {None: 539_392, "unit_price_not_positive": 2_517}
    assert (truth[0], truth[2], truth[4], truth[5]) == (534_129, 487_806, 9_251, 38)
    assert (round(truth[1], 2), round(truth[3], 2)) == (Decimal("9748131.07"), Decimal("8189252.30"))


def test_a_line_becomes_an_event(few: dict[str, Path]) -> None:
    first = read(few["parquet"], "online_retail")[0]
    assert first["tenant_id"] == "united-kingdom" and first["region"] == "United Kingdom"
    assert first["event"] == "Product Ordered" and first["session_id"] == first["order_id"] == "536365"
    assert first["user_id"] == "17850" and first["timestamp"] == utc(2010, 12, 1, 8, 26)
    assert first["revenue"] == Decimal("15.3000") and first["received_at"] == RECEIVED
    assert first["properties"] == '{"description":"WHITE HANGING HEART T-LIGHT HOLDER","price":2.55,"quantity":6}'


@pytest.mark.parametrize("form", ["csv", "tsv", "json"])
def test_every_format_gives_the_same_events(few: dict[str, Path], form: str) -> None:
    assert content(read(few[form], "online_retail")) == content(read(few["parquet"], "online_retail"))


@pytest.mark.parametrize("form", ["parquet", "csv", "json"])
def test_pieces_equal_the_whole(few: dict[str, Path], form: str) -> None:
    assert read(few[form], "online_retail", rows=37) == read(few[form], "online_retail")


def test_kept_texts_give_the_same_events_again(few: dict[str, Path]) -> None:
    rows = read(few["parquet"], "online_retail")
    assert content(reread(rows, "online_retail")) == content(rows)


def test_another_tenant_than_the_file_was_sent_for_is_a_mismatch(few: dict[str, Path]) -> None:
    rows = read(few["parquet"], "online_retail", tenant="france")
    assert {row["tenant_id"] for row in rows} == {"france"}
    assert all((row["reason"] is None) == (row["region"] == "France") for row in rows if row["revenue"] > 0)
