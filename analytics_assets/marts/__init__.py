"""The marts: what the dbt project says of its models, and how it is run. The SQL itself lives in `dbt_project/`."""
