with

by_day as (

    select tenant_id, date, event, sum(events) as events, sum(revenue) as revenue
    from {{ ref('events_daily') }}
    group by all

),

by_hour as (

    select tenant_id, date, event, sum(events) as events, sum(revenue) as revenue
    from {{ ref('events_hourly') }}
    group by all

)

-- Rows of one side only; unlike a join, it takes a missing event name as equal to another.
(select * from by_day except all select * from by_hour)
union all
(select * from by_hour except all select * from by_day)
