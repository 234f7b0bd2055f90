with

events as (

    select * from {{ ref('stg_events') }}

),

money as (

    select
        tenant_id,
        date,
        currency,
        order_id,
        quantity,
        revenue,
        coalesce(event in {{ text_list(var('return_events')) }}, false) or revenue < 0 as is_return
    from events
    where revenue is not null

),

by_day as (

    select
        tenant_id,
        date,
        currency,
        sum(revenue) as revenue,
        sum(revenue) filter (not is_return) as gross_revenue,
        sum(revenue) filter (is_return) as returned_revenue,
        count(distinct order_id) filter (not is_return and revenue > 0) as orders,
        count(*) filter (is_return) as returns,
        sum(quantity) filter (not is_return) as units_sold,
        sum(quantity) filter (is_return) as units_returned
    from money
    group by tenant_id, date, currency

),

typed as (

    select
        tenant_id,
        date,
        currency,
        cast(revenue as decimal(18, 4)) as revenue,
        cast(coalesce(gross_revenue, 0) as decimal(18, 4)) as gross_revenue,
        cast(coalesce(returned_revenue, 0) as decimal(18, 4)) as returned_revenue,
        orders,
        returns,
        cast(coalesce(units_sold, 0) as bigint) as units_sold,
        cast(coalesce(units_returned, 0) as bigint) as units_returned
    from by_day

)

select * from typed
