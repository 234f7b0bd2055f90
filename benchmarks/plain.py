"""The demo's marts as one plain DuckDB script over the same file: what the data alone costs, without any promise kept.

`plain.py FILE TARGET` makes events, sessions and the five marts in a new database. No rejected rows are kept, nothing can
be loaded twice, published, checked or rolled back.
"""

import json
import sys

import duckdb

_EVENTS = """
    create table events as
    select distinct on (tenant_id, message_id) * from (
        select trim(regexp_replace(lower(Country), '[^a-z0-9]+', '-', 'g'), '-') as tenant_id,
            md5(concat_ws(chr(31), InvoiceNo, StockCode, Description, Quantity, InvoiceDate, UnitPrice, CustomerID, Country))
                as message_id,
            case when InvoiceNo like 'C%' then 'Product Returned' else 'Product Ordered' end as event,
            CustomerID::bigint::varchar as user_id, InvoiceNo as session_id, InvoiceDate::timestamp as timestamp,
            (Quantity * UnitPrice::decimal(18, 4))::decimal(18, 4) as revenue, Quantity as quantity,
            StockCode as product_id, Country as region
        from read_parquet('{file}') where UnitPrice > 0
    )
"""
_MARTS = (
    "create table sessions as select tenant_id, session_id, max(user_id) as user_id, min(timestamp) as started_at, "
    "max(timestamp) as ended_at, count(*) as events from events group by all",
    "create table events_hourly as select tenant_id, date_trunc('hour', timestamp) as hour, event, count(*) as events, "
    "sum(revenue) as revenue from events group by all",
    "create table events_daily as select tenant_id, timestamp::date as date, event, region, product_id, count(*) as events, "
    "sum(quantity) as quantity, sum(revenue) as revenue from events group by all",
    "create table revenue_daily as select tenant_id, timestamp::date as date, sum(revenue) as revenue, "
    "count(distinct session_id) filter (revenue > 0) as orders from events group by all",
    """
    create table cohort_retention_weekly as
    with weeks as (select distinct tenant_id, user_id, date_trunc('week', started_at)::date as week from sessions
                   where user_id is not null),
    firsts as (select tenant_id, user_id, min(week) as cohort_week from weeks group by all)
    select tenant_id, cohort_week, week, count(*) as active_users from weeks join firsts using (tenant_id, user_id) group by all
    """,
    """
    create table funnel_daily as
    with visits as (select tenant_id, timestamp::date as date, coalesce(user_id, session_id) as person, event, timestamp
                    from events),
    one as (select tenant_id, date, person, min(timestamp) as first_at from visits where event = 'Product Ordered'
            group by all),
    two as (select distinct tenant_id, date, person from visits join one using (tenant_id, date, person)
            where event = 'Product Returned' and timestamp >= first_at)
    select tenant_id, date, 1 as step, count(*) as people from one group by all
    union all select tenant_id, date, 2, count(*) from two group by all
    """,
)


def main(file: str, target: str) -> None:
    with duckdb.connect(target, config={"threads": 2}) as con:
        con.execute(_EVENTS.format(file=file))
        for statement in _MARTS:
            con.execute(statement)
        events, revenue = con.execute("select count(*), sum(revenue)::varchar from events").fetchall()[0]
    print(json.dumps({"events": events, "revenue": revenue}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
