with

sessions as (

    select * from {{ source('warehouse', 'sessions') }}

),

with_weeks as (

    select
        tenant_id,
        session_id,
        user_id,
        date,
        cast(date_trunc('week', date) as date) as week
    from sessions

)

select * from with_weeks
