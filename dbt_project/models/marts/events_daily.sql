with

events as (

    select * from {{ ref('stg_events') }}

),

by_day as (

    select
        tenant_id,
        date,
        event,
        campaign,
        region,
        product_id,
        count(*) as events,
        cast(coalesce(sum(quantity), 0) as bigint) as quantity,
        cast(coalesce(sum(revenue), 0) as decimal(18, 4)) as revenue
    from events
    group by tenant_id, date, event, campaign, region, product_id

)

select * from by_day
