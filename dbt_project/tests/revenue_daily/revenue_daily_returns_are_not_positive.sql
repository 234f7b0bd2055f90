{{ config(severity='warn') }}

select *
from {{ ref('revenue_daily') }}
where returned_revenue > 0
