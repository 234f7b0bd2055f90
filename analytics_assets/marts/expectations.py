"""What must hold of a day of each mart, one list a table: keys, ranges, and the accounting with the layer below.

dbt's own tests look at a build before it is stored; these look at what was stored, which is what a publish shows.
"""

from functools import cache

from analytics_assets.marts.tables import mart_tables
from analytics_assets.warehouse.expectation import Expectation, Suite, agrees, no_row, one_row_per

_LISTS: dict[str, tuple[Expectation, ...]] = {
    "events_hourly": (
        one_row_per("events_hourly_key", "A tenant, hour and event have one row.", "tenant_id", "hour", "event"),
        no_row("events_hourly_in_range", "Each row counts an event, in an hour of its day.",
               "events is null or events < 1 or hour::date <> date"),
        agrees("events_hourly_count_all", "As many events as the events have.",
               "events_hourly", "sum(events)", "events", "count(*)"),
        agrees("events_hourly_earn_all", "As much money as the events have.",
               "events_hourly", "sum(revenue)", "events", "coalesce(sum(revenue), 0)"),
    ),
    "events_daily": (
        one_row_per("events_daily_key", "A drill-down has one row.",
                    "tenant_id", "event", "campaign", "region", "product_id"),
        no_row("events_daily_in_range", "Each row counts an event.", "events is null or events < 1 or revenue is null"),
        agrees("events_daily_count_all", "As many events as the events have.",
               "events_daily", "sum(events)", "events", "count(*)"),
        agrees("events_daily_earn_all", "As much money as the events have.",
               "events_daily", "sum(revenue)", "events", "coalesce(sum(revenue), 0)"),
    ),
    "revenue_daily": (
        one_row_per("revenue_daily_key", "A tenant, day and currency have one row.", "tenant_id", "currency"),
        no_row("revenue_daily_adds_up", "Net is gross plus returned.", "revenue <> gross_revenue + returned_revenue"),
        no_row("revenue_daily_in_range", "Sales bring money.", "gross_revenue < 0 or orders < 0"),
        no_row("revenue_daily_returns_cost", "Returns bring none. A warning: its sender gives returns without a sign.",
               "returned_revenue > 0", "warn"),
        agrees("revenue_daily_earns_all", "As much money as the events have.",
               "revenue_daily", "sum(revenue)", "events", "coalesce(sum(revenue), 0)"),
    ),
    "properties_daily": (
        one_row_per("properties_daily_key", "A property of an event has one row.",
                    "tenant_id", "event", "property", "quarantined"),
        no_row("properties_daily_in_range", "A property is carried by an event.", "events is null or events < 1 or keys < 1"),
        Expectation(
            "properties_are_carried_as_before",
            "No property that clean days know is missing from a fifth more of its events (of 100 and more).",
            query="""
                with size as (select tenant_id, date, event, sum(events) as size from judged_events_hourly group by all),
                clean_size as (select tenant_id, event, sum(events) as size, count(distinct date) as days
                               from clean_events_hourly group by all
                               having sum(events) >= 500 and count(distinct date) >= 10),
                usual as (select p.tenant_id, p.event, property, sum(p.events) / any_value(c.size) as share
                          from clean_properties_daily p join clean_size c using (tenant_id, event)
                          where not quarantined group by all),
                asked as (select size.*, usual.property, usual.share from size join usual using (tenant_id, event)
                          where size.size >= 100)
                select a.tenant_id, a.date, max(a.share - coalesce(p.events, 0) / a.size)::double as value
                from asked a left join judged_properties_daily p on p.tenant_id = a.tenant_id and p.date = a.date
                    and p.event = a.event and p.property = a.property and not p.quarantined
                group by all
            """,
            high=0.2,
        ),
    ),
    "funnel_daily": (
        one_row_per("funnel_daily_key", "A step of a funnel has one row.", "tenant_id", "funnel", "step"),
        no_row("funnel_daily_in_range", "A step has a number from 1 and nobody or somebody.",
               "step < 1 or people is null or people < 0"),
        Expectation(
            "funnel_daily_shrinks",
            "No step has more people than the one before.",
            query="""
                select tenant_id, date, (count(*) filter (people > before))::double as value
                from (select *, lag(people) over (partition by tenant_id, date, funnel order by step) as before
                      from judged_funnel_daily) group by all
            """,
            wrong="(funnel, step) in (select (funnel, step) from (select funnel, step, "
                  "people > lag(people) over (partition by funnel order by step) as grows from judged) where grows)",
            always=True,
        ),
    ),
    "cohort_retention_weekly": (
        one_row_per("cohort_retention_weekly_key", "A cohort and week have one row.", "tenant_id", "cohort_week", "week"),
        no_row("cohort_retention_weekly_in_range", "Retention is a share, of all in the first week.",
               "retention is null or retention not between 0 and 1 or (weeks_since = 0 and retention <> 1)"),
    ),
}  # fmt: skip


@cache
def mart_suites() -> tuple[Suite, ...]:
    """One suite a mart, those without days judged as a whole. A mart without a list fails here, not in silence."""
    return tuple(Suite(spec, _LISTS[spec.name], "date" if spec.time_column else None) for spec in mart_tables())
