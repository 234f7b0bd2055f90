{%- set funnels = var('funnels') -%}
{%- set longest = funnels.values() | map('length') | max -%}

with

events as (

    select * from {{ ref('stg_events') }}

),

funnel_steps (funnel, step, event) as (

    values
    {%- for funnel, names in funnels.items() %}
        {%- set last_funnel = loop.last %}
        {%- for name in names %}
        ({{ text_literal(funnel) }}, {{ loop.index }}, {{ text_literal(name) }}){{ "," if not (last_funnel and loop.last) }}
        {%- endfor %}
    {%- endfor %}

),

visits as (

    select
        events.tenant_id,
        events.date,
        events.person_id,
        events.timestamp,
        funnel_steps.funnel,
        funnel_steps.step
    from events
    inner join funnel_steps on events.event = funnel_steps.event
    where events.person_id is not null

),

step_1 as (

    select tenant_id, date, funnel, person_id, min(timestamp) as reached_at
    from visits
    where step = 1
    group by tenant_id, date, funnel, person_id

),

{% for step in range(2, longest + 1) -%}
step_{{ step }} as (

    select visits.tenant_id, visits.date, visits.funnel, visits.person_id, min(visits.timestamp) as reached_at
    from visits
    inner join step_{{ step - 1 }} as before
        on visits.tenant_id = before.tenant_id
        and visits.date = before.date
        and visits.funnel = before.funnel
        and visits.person_id = before.person_id
    where visits.step = {{ step }} and visits.timestamp >= before.reached_at
    group by visits.tenant_id, visits.date, visits.funnel, visits.person_id

),

{% endfor -%}
people_by_step as (

    {%- for step in range(1, longest + 1) %}
    select tenant_id, date, funnel, {{ step }} as step, count(*) as people
    from step_{{ step }}
    group by tenant_id, date, funnel
    {{ "union all" if not loop.last }}
    {%- endfor %}

),

-- All steps of a funnel that somebody began, also those that nobody reached.
funnel as (

    select
        began.tenant_id,
        began.date,
        began.funnel,
        cast(funnel_steps.step as integer) as step,
        funnel_steps.event,
        coalesce(people_by_step.people, 0) as people
    from people_by_step as began
    inner join funnel_steps on began.funnel = funnel_steps.funnel
    left join people_by_step
        on began.tenant_id = people_by_step.tenant_id
        and began.date = people_by_step.date
        and began.funnel = people_by_step.funnel
        and funnel_steps.step = people_by_step.step
    where began.step = 1

)

select * from funnel
