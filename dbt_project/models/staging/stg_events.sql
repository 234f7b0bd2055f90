with

events as (

    select * from {{ source('warehouse', 'events') }}

),

identities as (

    select * from {{ source('warehouse', 'identities') }}

),

-- Grouped although the key is unique already: so DuckDB can prove that the join adds no row,
-- and leaves it out wherever nobody asks for people (a third of the cost).
devices as (

    select
        tenant_id,
        anonymous_id,
        max(user_id) as user_id
    from identities
    group by tenant_id, anonymous_id

),

with_people as (

    select
        events.tenant_id,
        events.message_id,
        events.event,
        coalesce(
            events.user_id,
            devices.user_id,
            'device:' || events.anonymous_id,
            'session:' || events.session_id
        ) as person_id,
        events.timestamp,
        cast(events.timestamp as date) as date,
        date_trunc('hour', events.timestamp) as hour,
        events.revenue,
        events.quantity,
        events.currency,
        events.order_id,
        events.product_id,
        events.campaign,
        events.region,
        events.properties
    from events
    left join devices
        on events.tenant_id = devices.tenant_id
        and events.anonymous_id = devices.anonymous_id

)

select * from with_people
