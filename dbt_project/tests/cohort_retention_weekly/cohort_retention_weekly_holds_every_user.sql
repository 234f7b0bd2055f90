with

expected as (

    select tenant_id, count(distinct user_id) as users
    from {{ ref('stg_sessions') }}
    where user_id is not null
    group by all

),

found as (

    select tenant_id, sum(cohort_users) as users
    from {{ ref('cohort_retention_weekly') }}
    where weeks_since = 0
    group by all

)

select tenant_id, expected.users as expected_users, found.users
from expected
full join found using (tenant_id)
where expected.users is distinct from found.users
