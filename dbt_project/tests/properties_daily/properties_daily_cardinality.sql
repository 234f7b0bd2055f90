{{ config(severity='warn') }}

select *
from {{ ref('properties_daily') }}
where quarantined or distinct_values > {{ var('property_values') }}
