select *
from {{ ref('revenue_daily') }}
where revenue <> gross_revenue + returned_revenue
