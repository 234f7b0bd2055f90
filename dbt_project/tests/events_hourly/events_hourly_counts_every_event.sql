-- Against the source, not the staging view: a join that doubles events would double both sides of the other comparison.
with

expected as (

    select tenant_id, cast(timestamp as date) as date, count(*) as events, coalesce(sum(revenue), 0) as revenue
    from {{ source('warehouse', 'events') }}
    group by all

),

found as (

    select tenant_id, date, sum(events) as events, sum(revenue) as revenue
    from {{ ref('events_hourly') }}
    group by all

)

select tenant_id, date, expected.events as expected_events, found.events, expected.revenue as expected_revenue, found.revenue
from expected
full join found using (tenant_id, date)
where expected.events is distinct from found.events or expected.revenue is distinct from found.revenue
