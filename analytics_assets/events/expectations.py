"""What must hold of a delivery and of a day of events, one list a table."""

from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.warehouse.expectation import Expectation, Suite, Usual, no_row, one_row_per

# A delivery is judged on the day it was received, for its tenant or, where each row names its own, for its source.
BATCHES_SUITE = Suite(
    BATCHES,
    (
        Expectation(
            "batch_rejects_few",
            "Of a batch of 20 records and more, at most a fifth waits rejected: beyond it the format has changed.",
            # Not the batch's own count, which stays when its records are replayed after a fix; and nothing waits any more of a
            # file that was sent again whole: under its name or with the events that it brought, and with fewer rejected.
            query="""
                with waiting as (select batch_id, count(*) as waiting from whole_rejected_events group by all),
                mended as (select distinct old.batch_id from judged_batches old join whole_batches again
                    on again.source = old.source and again.tenant is not distinct from old.tenant
                    and again.batch_id <> old.batch_id and again.received_at >= old.received_at and again.status = 'loaded'
                    and (again.file = old.file or old.events > 0) and again.received >= old.received
                    and again.duplicates >= old.events and again.rejected < old.rejected)
                select coalesce(tenant, source) as tenant_id, date, max(case when mended.batch_id is null
                    then coalesce(waiting, 0) / received else 0 end)::double as value
                from judged_batches left join waiting using (batch_id) left join mended using (batch_id)
                where received >= 20 group by all
            """,
            high=0.2,
            wrong="received >= 20 and rejected > 0.2 * received",
        ),
        no_row(
            "batch_is_accounted_for",
            "Each received record was rejected, a duplicate or an event.",
            "received <> rejected + duplicates + events",
        ),
        no_row(
            "batch_is_readable",
            "No file was set aside as unreadable. A warning: nothing of it was stored, and the others go on.",
            "status = 'set_aside'",
            "warn",
        ),
        no_row(
            "batch_has_declared_columns_only",
            "No column came that the source does not declare. A warning: it is left out, and the rest stays right.",
            "undeclared <> ''",
            "warn",
        ),
        Usual(
            "batch_is_as_recent_as_usual",
            "Freshness of input: the newest event is about as old at receipt as it was before, in hours.",
            "max(date_diff('minute', event_to, received_at) / 60.0) filter (status = 'loaded' and events > 0)",
            tolerance=7 * 24,
            sides="up",
        ),
    ),
    day="received_at::date",
    tenant="coalesce(tenant, source)",
)

REJECTED_SUITE = Suite(
    REJECTED,
    (
        no_row("rejected_say_why", "What was rejected has a reason, and what a replay needs.",
               "coalesce(reason, '') = '' or raw is null or record_digest is null"),
        one_row_per("rejected_one_row_each", "A record and its copy have one row.", "record_digest", '"copy"'),
    ),
    day="received_at::date",
    tenant="coalesce(tenant_id, source)",
)  # fmt: skip

_TEXTS = "concat_ws(' ', event, product_id, region, campaign, page_title, properties)"
# The replacement character, UTF-8 read as Latin-1 or Windows-1252, and control characters, which JSON writes as \u00xx.
_DAMAGED = r"\x{FFFD}|\x{C3}[\x{80}-\x{BF}\x{2018}-\x{2030}]|\x{C2}[\x{80}-\x{BF}]|\x{E2}\x{20AC}|\\u00[01]|\\ufffd"
# Few texts are more than ASCII or escape anything, and only those are searched.
_DAMAGED_EVENTS = (
    f"(count(*) filter (case when strlen({_TEXTS}) <> length({_TEXTS}) or contains(properties, '\\u') "
    f"then regexp_matches({_TEXTS}, '{_DAMAGED}') else false end))"
)
_SOLD = "revenue > 0 and quantity > 0 and product_id is not null"
_PRICE = "round(revenue / quantity, 2)"
_KNOWN_PRICES = f"""
    select tenant_id, product_id, list(distinct {_PRICE}) as prices from clean_events where {_SOLD} group by all
"""
# Hours that clean days use, of tenants that have enough of these.
_USED_HOURS = """
    select seen.tenant_id, hour
    from (select tenant_id, hour(timestamp) as hour, count(*) as events from clean_events group by all) seen
    join (select tenant_id, count(*) as events from clean_events
          group by all having count(distinct date) >= 20 and count(*) >= 5000) known using (tenant_id)
    where seen.events >= 0.005 * known.events
"""
# What two deliveries of the same happening agree in.
_SAME = """event, user_id, anonymous_id, product_id, quantity, revenue, page_url, properties, date_trunc('hour', timestamp)"""
_EARLY = "timestamp > received_at + interval 1 hour"
_HOUR_OF_DAY = "date_diff('minute', timestamp::date, timestamp) / 60.0"

EVENTS_SUITE = Suite(
    EVENTS,
    (
        no_row(
            "events_are_complete",
            "Tenant, message, name, time, receipt and batch are known.",
            "message_id is null or event is null or received_at is null or batch_id is null",
        ),
        one_row_per("events_are_stored_once", "A message of a tenant is one event.", "message_key"),
        no_row("events_are_not_from_the_future", "No event lies a month or more after its receipt.",
               "timestamp > received_at + interval 31 days"),
        Expectation(
            "events_come_before_their_receipt",
            "At most one event in twenty (of 50 and more) lies more than an hour after its receipt: clocks are wrong by a day.",
            f"case when count(*) >= 50 then (count(*) filter ({_EARLY})) / count(*)::double end",
            high=0.05,
            wrong=_EARLY,
        ),
        no_row("events_name_their_currency", "Money names its currency, by three letters.",
               "revenue <> 0 and not coalesce(regexp_full_match(currency, '[A-Z]{3}'), false)", "warn"),
        Expectation(
            "events_text_is_readable",
            "At most one event in a hundred, or 20, carries text damaged by a wrong character set.",
            f"(case when {_DAMAGED_EVENTS} > 20 then {_DAMAGED_EVENTS} / count(*) else 0 end)",
            high=0.01,
            wrong=f"regexp_matches({_TEXTS}, '{_DAMAGED}')",
        ),
        Usual(
            "events_volume",
            "About as many events as on the same weekday before; a tenant gone silent has none.",
            "count(*)", weekday=True, ratio=True, tolerance=2.5, spreads=5, least=100, absent_is_zero=True, whole_day=True,
        ),
        Expectation(
            "events_miss_no_hour",
            "No hour is empty between others that had events on every clean day of the tenant, nor three of nearly every day.",
            query="""
                with days as (select distinct tenant_id, date, dayofweek(date) in (0, 6) as weekend from clean_events),
                known as (select tenant_id, weekend, count(*) as days from days group by all having count(*) >= 6),
                hours as (select tenant_id, dayofweek(date) in (0, 6) as weekend, hour(timestamp) as hour,
                                 count(distinct date) as days from clean_events group by all),
                sure as (select tenant_id, weekend, hour, hours.days = known.days as always
                         from hours join known using (tenant_id, weekend) where hours.days >= 0.95 * known.days),
                today as (select tenant_id, date, dayofweek(date) in (0, 6) as weekend, list(distinct hour(timestamp)) as seen
                          from judged_events group by all),
                missing as (select tenant_id, date, always and list_min(seen) < hour and hour < list_max(seen) as between_others
                            from today join sure using (tenant_id, weekend) where not list_contains(seen, hour)),
                counted as (select tenant_id, date, count(*) as hours, count(*) filter (between_others) as inner_hours
                            from missing group by all)
                select tenant_id, date, (case when hours >= 3 then hours else coalesce(inner_hours, 0) end)::double as value
                from today join known using (tenant_id, weekend) left join counted using (tenant_id, date)
                where known.days >= case when weekend then 7 else 35 end
            """,
            whole_day=True,
        ),
        Expectation(
            "events_come_at_known_hours",
            "At most three in ten of a day's events (of 50 and more) lie in hours that clean days leave nearly empty.",
            query=f"""
                with used as ({_USED_HOURS})
                select tenant_id, date, (count(*) filter (used.hour is null)) / count(*)::double as value
                from (select tenant_id, date, hour(timestamp) as hour from judged_events) e
                join (select distinct tenant_id from used) using (tenant_id) left join used using (tenant_id, hour)
                group by all having count(*) >= 50
            """,
            high=0.3,
            wrong=f"(tenant_id, hour(timestamp)) not in (select (tenant_id, hour) from ({_USED_HOURS}))",
        ),
        Expectation(
            "events_keep_their_prices",
            "Most sales of a known product (of 50 and more) have a price, to the cent, that clean days had for it.",
            query=f"""
                with ready as (select tenant_id from clean_days group by all having count(*) >= 30)
                select tenant_id, date, avg(list_contains(prices, {_PRICE})::int)::double as value
                from judged_events join ready using (tenant_id) join ({_KNOWN_PRICES}) using (tenant_id, product_id)
                where {_SOLD} group by all having count(*) >= 50
            """,
            low=0.6, high=None,
            wrong=f"{_SOLD} and exists (select 1 from ({_KNOWN_PRICES}) known where known.tenant_id = judged.tenant_id "
                  f"and known.product_id = judged.product_id and not list_contains(known.prices, {_PRICE}))",
        ),
        Expectation(
            "events_sell_known_products",
            "Most events (of 50 and more) are about products that clean days knew.",
            query="""
                with seen as (select distinct tenant_id, product_id from clean_events where product_id is not null),
                known as (select tenant_id from clean_events group by all
                          having count(distinct date) >= 30 and count(*) >= 10000)
                select tenant_id, date, (count(*) filter (seen.product_id is null)) / count(*)::double as value
                from judged_events join known using (tenant_id) left join seen using (tenant_id, product_id)
                where judged_events.product_id is not null group by all having count(*) >= 50
            """,
            high=0.2,
            wrong="product_id is not null and (tenant_id, product_id) not in "
                  "(select (tenant_id, product_id) from clean_events where product_id is not null)",
        ),
        Expectation(
            "events_keep_their_currency",
            "No money comes in a currency that the tenant's clean days do not have.",
            query="""
                with ready as (select tenant_id from clean_days group by all having count(*) >= 10),
                seen as (select distinct tenant_id, currency from clean_events where currency is not null)
                select tenant_id, date, (count(*) filter (seen.currency is null))::double as value
                from judged_events join ready using (tenant_id) left join seen using (tenant_id, currency)
                where revenue is not null and judged_events.currency is not null group by all
            """,
            wrong="revenue is not null and currency is not null and (tenant_id, currency) not in "
                  "(select (tenant_id, currency) from clean_events where currency is not null)",
        ),
        Usual(
            "events_do_not_repeat_a_day",
            "Share of a day's events (of 50 and more) that repeat one of the week before: same minute, product, pieces, who.",
            # Days before count in the window too: so a first load of months shows what a regular sender repeats.
            query="""
                with before as (select distinct tenant_id, date, date_trunc('minute', timestamp)::time as minute, event,
                                       product_id, quantity, coalesce(user_id, anonymous_id) as person
                                from (select * from clean_events union all by name select * from judged_events)),
                today as (select tenant_id, date, date_trunc('minute', timestamp)::time as minute, event, product_id,
                                 quantity, coalesce(user_id, anonymous_id) as person from judged_events),
                met as (select today.*, exists (select 1 from before b where b.tenant_id = today.tenant_id
                        and b.date between today.date - 8 and today.date - 1 and b.minute = today.minute
                        and b.event = today.event and b.product_id is not distinct from today.product_id
                        and b.quantity is not distinct from today.quantity
                        and b.person is not distinct from today.person) as again from today)
                select tenant_id, date, (count(*) filter (again)) / count(*)::double as value
                from met where exists (select 1 from before b where b.tenant_id = met.tenant_id
                                       and b.date between met.date - 8 and met.date - 1)
                group by all having count(*) >= 50
            """,
            tolerance=0.2, sides="up",
            wrong="""exists (select 1 from (select * from clean_events union all by name select * from judged_events) b
                where b.tenant_id = judged.tenant_id and b.date between judged.date - 8 and judged.date - 1
                and date_trunc('minute', b.timestamp)::time = date_trunc('minute', judged.timestamp)::time
                and b.event = judged.event and b.product_id is not distinct from judged.product_id
                and b.quantity is not distinct from judged.quantity
                and coalesce(b.user_id, b.anonymous_id) is not distinct from coalesce(judged.user_id, judged.anonymous_id))""",
        ),
        Usual(
            "events_have_no_twins",
            "Share of events that agree in all but their ids with another of the same hour: a batch sent twice doubles them.",
            f"case when count(*) >= 50 then 1 - count(distinct hash({_SAME})) / count(*)::double end",
            tolerance=0.21, sides="up",
            wrong=f"message_key not in (select min(message_key) from judged_events group by tenant_id, {_SAME})",
        ),
        Usual(
            "events_begin_when_usual",
            "The first twentieth of the day's events (of 100 and more) ends when it does on this weekday, in hours.",
            f"case when count(*) >= 100 then quantile_cont({_HOUR_OF_DAY}, 0.05) end",
            weekday=True, tolerance=2.25, whole_day=True,
        ),
        Usual(
            "events_end_when_usual",
            "The last twentieth of the day's events (of 100 and more) begins when it does on this weekday, in hours.",
            f"case when count(*) >= 100 then quantile_cont({_HOUR_OF_DAY}, 0.95) end",
            weekday=True, tolerance=2.25, whole_day=True,
        ),
        Usual(
            "events_know_their_user",
            "Share of events without a user.",
            "case when count(*) >= 100 then (count(*) filter (user_id is null)) / count(*)::double end",
            weekday=True, tolerance=0.5, spreads=2.5, sides="up", wrong="user_id is null",
        ),
        Usual(
            "events_know_their_product",
            "Share of events without a product.",
            "case when count(*) >= 50 then (count(*) filter (product_id is null)) / count(*)::double end",
            tolerance=0.05, sides="up", wrong="product_id is null",
        ),
        Usual(
            "events_know_their_session",
            "Share of events whose source gives no session.",
            "case when count(*) >= 50 then (count(*) filter (session_id is null)) / count(*)::double end",
            tolerance=0.05, sides="up", wrong="session_id is null",
        ),
        Usual(
            "events_know_their_money",
            "Share of events without money.",
            "case when count(*) >= 50 then (count(*) filter (revenue is null)) / count(*)::double end",
            tolerance=0.05, sides="up", wrong="revenue is null",
        ),
        Usual(
            "events_returns",
            "Share of events that give money back.",
            "case when count(*) >= 100 then (count(*) filter (revenue < 0)) / count(*)::double end",
            tolerance=0.1, wrong="revenue < 0",
        ),
        Usual(
            "events_pieces",
            "Pieces of the usual event: the median.",
            "case when count(*) >= 100 then median(abs(quantity)) end",
            ratio=True, tolerance=4,
        ),
        Usual(
            "events_pieces_vary",
            "Share of events with a single piece, which a stuck value raises.",
            "case when count(quantity) >= 100 then (count(*) filter (abs(quantity) = 1)) / count(quantity)::double end",
            tolerance=0.4, sides="up", wrong="abs(quantity) = 1",
        ),
        Usual(
            "events_revenue",
            "About as much money as on the same weekday before. A warning: one large order is no fault.",
            "sum(revenue) filter (revenue > 0)",
            weekday=True, ratio=True, tolerance=4, spreads=6, least=5000, severity="warn", whole_day=True,
        ),
    ),
    day="timestamp::date",
)  # fmt: skip
