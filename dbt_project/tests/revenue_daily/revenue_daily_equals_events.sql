with

expected as (

    select tenant_id, cast(timestamp as date) as date, currency, sum(revenue) as revenue
    from {{ source('warehouse', 'events') }}
    where revenue is not null
    group by all

),

found as (

    select tenant_id, date, currency, revenue
    from {{ ref('revenue_daily') }}

)

(select * from expected except all select * from found)
union all
(select * from found except all select * from expected)
