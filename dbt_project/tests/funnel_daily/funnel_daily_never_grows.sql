with

steps as (

    select
        *,
        lag(people) over (partition by tenant_id, date, funnel order by step) as people_before
    from {{ ref('funnel_daily') }}

)

select *
from steps
where people > people_before or (step = 1 and people < 1)
