{# A declared name as SQL text; declarations may hold quotes. #}
{% macro text_literal(value) -%}
  '{{ value | string | replace("'", "''") }}'
{%- endmacro %}

{% macro text_list(values) -%}
  ({%- for value in values %}{{ text_literal(value) }}{{ ", " if not loop.last }}{% endfor -%})
{%- endmacro %}
