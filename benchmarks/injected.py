"""The faults that are injected into days of the real retail sample, for the tests and for the measurement in `faults`.

Each is one delivery that is not what it should be: the SELECT over `day`, the day's lines, that is sent instead, or a change
of the file's bytes.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path

import duckdb

from analytics_assets.settings import CONFIG, PROJECT

RETAIL = PROJECT / "data" / "sample" / "online_retail" / "online_retail.parquet"
SOURCE, IN_EUROS = "online_retail", "online_retail_in_euros"
_COLUMNS = "InvoiceNo, StockCode, Description, Quantity, InvoiceDate, UnitPrice, CustomerID, Country"


@dataclass(frozen=True)
class Fault:
    """A fault by its name, and `seen_by`, the expectation or the reason of rejection that tells what is wrong.

    `later`: so many days after its own the events lie, in whole or in part. `hard`: small in itself, or no more than what
    happens on a good day.
    """

    name: str
    select: str = "from day"
    seen_by: str = ""
    kind: str = "parquet"
    damage: Callable[[bytes], bytes] | None = None
    source: str = SOURCE
    later: int = 0
    hard: bool = False

    @property
    def at_intake(self) -> bool:
        """Whether the delivery itself tells, whatever the day is like."""
        return self.seen_by.startswith(("set aside", "time_in_future", "wrong_type", "batch_"))

    def write(self, con: duckdb.DuckDBPyConnection, path: Path) -> Path:
        """The faulty delivery, from the tables `day` and `yesterday` on `con` (see `stand_lines`)."""
        target = path.with_suffix(f".{self.kind}")
        con.execute(f"copy ({self.select}) to '{target}' (format {self.kind})")
        if self.damage is not None:
            target.write_bytes(self.damage(target.read_bytes()))
        return target


def _with(**columns: str) -> str:
    """The day's lines with some columns computed otherwise."""
    replaced = ", ".join(f"{sql} as {name}" for name, sql in columns.items())
    return f"select * replace ({replaced}) from day"


def _some(share: int, sql: str, otherwise: str) -> str:
    """`sql` for so many lines in a hundred, chosen by their content."""
    return f"case when hash(InvoiceNo, StockCode, Quantity) % 100 < {share} then {sql} else {otherwise} end"


FAULTS: tuple[Fault, ...] = (
    Fault("the file of the day before, dated today",
          "select * replace (InvoiceDate + interval 1 day as InvoiceDate, '9' || InvoiceNo as InvoiceNo) from yesterday",
          "events_do_not_repeat_a_day"),
    Fault("an hour is missing (12:00)", "from day where hour(InvoiceDate) <> 12", "events_miss_no_hour"),
    Fault("the day ends at noon", "from day where hour(InvoiceDate) < 12", "events_miss_no_hour"),
    Fault("a file cut off, Parquet", damage=lambda content: content[: len(content) * 6 // 10], seen_by="set aside"),
    Fault("a file cut off, CSV", kind="csv", damage=lambda content: content[: len(content) * 2 // 5],
          seen_by="set aside"),
    Fault("the main tenant is silent", "from day where Country <> 'United Kingdom'", "events_volume"),
    Fault("the main tenant's lines name another", _with(Country="replace(Country, 'United Kingdom', 'Germany')"),
          "events_volume"),
    Fault("sent twice with new ids", "from day union all select * replace ('9' || InvoiceNo as InvoiceNo) from day",
          "events_have_no_twins"),
    Fault("a third sent again with new ids, seconds later",
          "from day union all select * replace (InvoiceNo || 'x' as InvoiceNo, "
          "InvoiceDate + interval 7 seconds as InvoiceDate) from day where hash(StockCode, Quantity) % 3 = 0",
          "events_have_no_twins"),
    Fault("clock 5 hours ahead", _with(InvoiceDate="InvoiceDate + interval 5 hours"), "events_begin_when_usual"),
    Fault("clock 4 hours behind", _with(InvoiceDate="InvoiceDate - interval 4 hours"), "events_begin_when_usual"),
    Fault("dates of tomorrow", _with(InvoiceDate="InvoiceDate + interval 1 day"), "events_come_before_their_receipt",
          later=1),
    Fault("the time of day is lost", _with(InvoiceDate="date_trunc('day', InvoiceDate)"), "events_come_at_known_hours"),
    Fault("dates of next year", _with(InvoiceDate="InvoiceDate + interval 1 year"), "time_in_future"),
    Fault("dates of last year", _with(InvoiceDate="InvoiceDate - interval 1 year"), "batch_is_as_recent_as_usual"),
    Fault("quantity and price swapped", _with(Quantity="round(UnitPrice)::bigint", UnitPrice="Quantity::double"),
          "events_keep_their_prices"),
    Fault("product and description swapped", _with(StockCode="Description", Description="StockCode"),
          "events_sell_known_products"),
    Fault("invoice and customer swapped",
          _with(InvoiceNo="CustomerID::bigint::varchar", CustomerID="try_cast(InvoiceNo as double)"),
          "events_know_their_session"),
    Fault("prices in pence, 100 times", _with(UnitPrice="UnitPrice * 100"), "events_keep_their_prices"),
    Fault("prices in euro, unsaid (x 1.15)", _with(UnitPrice="round(UnitPrice * 1.15, 2)"), "events_keep_their_prices"),
    Fault("money names another currency", source=IN_EUROS, seen_by="events_keep_their_currency"),
    Fault("prices rounded to whole pounds", _with(UnitPrice="greatest(round(UnitPrice), 1)"), "events_keep_their_prices"),
    Fault("quantity stuck at 1", _with(Quantity="sign(Quantity)::bigint"), "events_pieces_vary"),
    Fault("quantities 100 times", _with(Quantity="Quantity * 100"), "events_pieces"),
    Fault("all lines become returns", _with(Quantity="-abs(Quantity)", InvoiceNo="'C' || ltrim(InvoiceNo, 'C')"),
          "events_returns"),
    Fault("nulls: 90 % of the customers", _with(CustomerID=_some(90, "null", "CustomerID")), "events_know_their_user"),
    Fault("nulls: 30 % of the descriptions", _with(Description=_some(30, "null", "Description")),
          "properties_are_carried_as_before"),
    Fault("nulls: 30 % of the products", _with(StockCode=_some(30, "null", "StockCode")), "events_know_their_product"),
    Fault("nulls: 30 % of the prices", _with(UnitPrice=_some(30, "null", "UnitPrice")), "batch_rejects_few"),
    Fault("schema: a column is renamed", "select * exclude (UnitPrice), UnitPrice as Price from day", "set aside"),
    Fault("schema: a column is added", "select *, 'web' as Channel from day", "batch_has_declared_columns_only"),
    Fault("schema: product codes as numbers", _with(StockCode="try_cast(StockCode as bigint)"), "events_know_their_product"),
    Fault("schema: dates as day/month/year text",
          "select * replace (strftime(InvoiceDate, '%d/%m/%Y %H:%M') as InvoiceDate) from day", "wrong_type:InvoiceDate"),
    Fault("schema: prices with a decimal comma",
          "select * replace (replace(UnitPrice::varchar, '.', ',') as UnitPrice) from day", "wrong_type:UnitPrice"),
    Fault("encoding: UTF-8 read as Latin-1", _with(Description="replace(Description, 'E', chr(195) || chr(137))"),
          "events_text_is_readable"),
    Fault("encoding: replacement characters",
          _with(Description=_some(10, "replace(Description, 'A', chr(65533))", "Description")), "events_text_is_readable"),
    Fault("a fifth of test products", "from day union all select * replace ('TEST' || (hash(InvoiceNo) % 50) as StockCode, "
          "'9' || InvoiceNo as InvoiceNo) from day where hash(StockCode, Quantity) % 4 = 0", "events_sell_known_products"),
    Fault("clock 1 hour ahead", _with(InvoiceDate="InvoiceDate + interval 1 hour"), hard=True),
    Fault("a small tenant is silent", "from day where Country <> 'Germany'", hard=True),
    Fault("returns without their sign", _with(Quantity="abs(Quantity)"), hard=True),
    Fault("5 % of the lines lost", "from day where hash(InvoiceNo, StockCode) % 20 <> 0", hard=True),
)  # fmt: skip


def stand_lines(con: duckdb.DuckDBPyConnection, day: date) -> None:
    """Make the tables `day` and `yesterday` of the sample's lines."""
    con.execute(f"create temp table if not exists lines as select {_COLUMNS} from read_parquet('{RETAIL}')")
    for name, moment in (("day", day), ("yesterday", day - timedelta(days=1))):
        con.execute(f"create or replace temp table {name} as from lines where InvoiceDate::date = date '{moment}'")


def open_days(con: duckdb.DuckDBPyConnection, first: date, last: date) -> list[date]:
    """The days of the sample on which the shop was open."""
    found = con.execute(
        f"select distinct InvoiceDate::date from read_parquet('{RETAIL}') "
        f"where InvoiceDate::date between date '{first}' and date '{last}' order by 1"
    ).fetchall()
    return [day for (day,) in found]


def declare(folder: Path, *incidents: str) -> Path:
    """The project's declarations, a source that says euros where the sample says pounds, and days looked at by a person."""
    shutil.copytree(CONFIG, folder)
    source = (folder / "sources" / f"{SOURCE}.yaml").read_text()
    (folder / "sources" / f"{IN_EUROS}.yaml").write_text(source.replace("'GBP'", "'EUR'"))
    entries = "".join(f"\n  - {entry}" for entry in incidents) or " []"
    (folder / "incidents.yaml").write_text(f"incidents:{entries}\n")
    return folder


def morning_after(day: date) -> datetime:
    return datetime.combine(day + timedelta(days=1), clock_time(6))
