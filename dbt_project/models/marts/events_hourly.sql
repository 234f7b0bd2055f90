with

events as (

    select * from {{ ref('stg_events') }}

),

by_hour as (

    select
        tenant_id,
        date,
        hour,
        event,
        count(*) as events,
        cast(coalesce(sum(revenue), 0) as decimal(18, 4)) as revenue
    from events
    group by tenant_id, date, hour, event

)

select * from by_hour
