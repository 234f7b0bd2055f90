{# The columns of events that tables are drilled down by; a sender may fill them with anything. #}
{% macro drill_downs() -%}
  {{ return(["campaign", "region", "product_id"]) }}
{%- endmacro %}
