select distinct tenant_id, date
from {{ ref('events_hourly') }}
where
    date not in (select date from {{ source('warehouse', 'days') }})
    or cast(hour as date) <> date
