select *
from {{ ref('cohort_retention_weekly') }}
where
    retention not between 0 and 1
    or (weeks_since = 0 and retention <> 1)
    or weeks_since < 0
    or week <> cohort_week + 7 * weeks_since
