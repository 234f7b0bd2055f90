with

sessions as (

    select * from {{ ref('stg_sessions') }}

),

active_weeks as (

    select distinct tenant_id, user_id, week
    from sessions
    where user_id is not null

),

first_weeks as (

    select tenant_id, user_id, min(week) as cohort_week
    from active_weeks
    group by tenant_id, user_id

),

cohorts as (

    select tenant_id, cohort_week, count(*) as cohort_users
    from first_weeks
    group by tenant_id, cohort_week

),

last_weeks as (

    select tenant_id, max(week) as last_week
    from sessions
    group by tenant_id

),

-- Every week since, also those in which nobody came: a missing zero would raise every average.
triangle as (

    select
        cohorts.tenant_id,
        cohorts.cohort_week,
        cohorts.cohort_users,
        cast(unnest(generate_series(cohorts.cohort_week, last_weeks.last_week, interval 7 days)) as date) as week
    from cohorts
    inner join last_weeks on cohorts.tenant_id = last_weeks.tenant_id

),

activity as (

    select
        active_weeks.tenant_id,
        first_weeks.cohort_week,
        active_weeks.week,
        count(*) as active_users
    from active_weeks
    inner join first_weeks
        on active_weeks.tenant_id = first_weeks.tenant_id
        and active_weeks.user_id = first_weeks.user_id
    group by active_weeks.tenant_id, first_weeks.cohort_week, active_weeks.week

),

retention as (

    select
        triangle.tenant_id,
        triangle.cohort_week,
        triangle.week,
        cast((triangle.week - triangle.cohort_week) // 7 as integer) as weeks_since,
        triangle.cohort_users,
        coalesce(activity.active_users, 0) as active_users,
        coalesce(activity.active_users, 0) / triangle.cohort_users as retention
    from triangle
    left join activity
        on triangle.tenant_id = activity.tenant_id
        and triangle.cohort_week = activity.cohort_week
        and triangle.week = activity.week

)

select * from retention
