{# Several not_null tests in one pass: a test costs dbt more than the query does. #}
{% test always_known(model, columns) %}
select {{ columns | join(", ") }}
from {{ model }}
where {% for column in columns %}{{ column }} is null{{ " or " if not loop.last }}{% endfor %}
{% endtest %}
