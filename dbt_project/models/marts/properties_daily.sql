with

events as (

    select * from {{ ref('stg_events') }}

),

-- Keys and values come in the same order. Parsing twice is still cheaper than any function that gives both.
carried as (

    select
        tenant_id,
        date,
        event,
        unnest(json_keys(properties)) as property,
        unnest(json_extract(properties, '$.*')) as value
    from events

),

by_key as (

    select
        tenant_id,
        date,
        event,
        property,
        count(*) as events,
        approx_count_distinct(value) as distinct_values
    from carried
    where property is not null
    group by tenant_id, date, event, property

),

columns_by_event as (

    select
        tenant_id,
        date,
        event,
        {%- for column in drill_downs() %}
        count({{ column }}) as {{ column }}_events,
        approx_count_distinct({{ column }}) as {{ column }}_values{{ "," if not loop.last }}
        {%- endfor %}
    from events
    group by tenant_id, date, event

),

by_column as (

    {%- for column in drill_downs() %}
    select
        tenant_id,
        date,
        event,
        '{{ column }}' as property,
        {{ column }}_events as events,
        {{ column }}_values as distinct_values
    from columns_by_event
    where {{ column }}_events > 0
    {{ "union all" if not loop.last }}
    {%- endfor %}

),

-- A column is mostly read from the property of its name: what both say is one thing and counts once.
by_drill_down as (

    select
        tenant_id,
        date,
        event,
        property,
        max(events) as events,
        max(distinct_values) as distinct_values
    from (
        select * from by_key where property in {{ text_list(drill_downs()) }}
        union all
        select * from by_column
    )
    group by tenant_id, date, event, property

),

by_property as (

    select * from by_key where property not in {{ text_list(drill_downs()) }}
    union all
    select * from by_drill_down

),

listed as (

    select
        tenant_id,
        date,
        event,
        property,
        events,
        distinct_values,
        cast(1 as bigint) as keys,
        false as quarantined
    from by_property
    where length(property) <= 255
    qualify
        row_number() over (partition by tenant_id, date, event order by events desc, property)
        <= {{ var('property_keys') }}

),

-- All less those listed: a sort of every key would not fit into memory where somebody sends millions.
quarantined as (

    select
        tenant_id,
        date,
        event,
        '(other)' as property,
        cast(sum(events) as bigint) as events,
        -- Sketches of different keys do not add up.
        cast(null as bigint) as distinct_values,
        cast(sum(keys) as bigint) as keys,
        true as quarantined
    from (
        select tenant_id, date, event, events, 1 as keys from by_property
        union all
        select tenant_id, date, event, -events, -keys from listed
    )
    group by tenant_id, date, event
    having sum(keys) > 0

),

bounded as (

    select * from listed
    union all
    select * from quarantined

)

select * from bounded
