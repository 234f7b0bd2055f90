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

),

-- Only a day with more rows than the limit can hold more values: all other days skip the rest.
crowded_days as (

    select tenant_id, date
    from by_day
    group by tenant_id, date
    having count(*) > {{ var('drilldown_values') }}

),

crowded as (

    select * from by_day
    where (tenant_id, date) in (select (tenant_id, date) from crowded_days)

),

{% for column in drill_downs() -%}
{{ column }}_kept as (

    select tenant_id, date, {{ column }}
    from crowded
    where {{ column }} is not null
    group by tenant_id, date, {{ column }}
    qualify
        row_number() over (partition by tenant_id, date order by sum(events) desc, {{ column }})
        <= {{ var('drilldown_values') }}

),

{% endfor -%}
capped as (

    select
        crowded.tenant_id,
        crowded.date,
        crowded.event,
        {%- for column in drill_downs() %}
        case
            when crowded.{{ column }} is not null then coalesce({{ column }}_kept.{{ column }}, '(other)')
        end as {{ column }},
        {%- endfor %}
        crowded.events,
        crowded.quantity,
        crowded.revenue
    from crowded
    {%- for column in drill_downs() %}
    left join {{ column }}_kept
        on crowded.tenant_id = {{ column }}_kept.tenant_id
        and crowded.date = {{ column }}_kept.date
        and crowded.{{ column }} = {{ column }}_kept.{{ column }}
    {%- endfor %}

),

bounded as (

    select * from by_day
    where (tenant_id, date) not in (select (tenant_id, date) from crowded_days)

    union all

    select
        tenant_id,
        date,
        event,
        campaign,
        region,
        product_id,
        cast(sum(events) as bigint) as events,
        cast(sum(quantity) as bigint) as quantity,
        cast(sum(revenue) as decimal(18, 4)) as revenue
    from capped
    group by tenant_id, date, event, campaign, region, product_id

)

select * from bounded
