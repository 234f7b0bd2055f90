"""The marts as tables of the warehouse: what the dbt project declares, in the warehouse's own terms."""

from functools import cache

from analytics_assets.marts.project import models
from analytics_assets.warehouse.spec import Column, TableSpec


@cache
def mart_tables() -> tuple[TableSpec, ...]:
    """One table a mart. A mart with a `date` is replaced day by day, any other as a whole."""
    return tuple(
        TableSpec(
            name=model.name,
            comment=" ".join(model.description.split()),
            columns=tuple(Column(c.name, c.type, " ".join(c.description.split())) for c in model.columns),
            time_column="date" if any(column.name == "date" for column in model.columns) else None,
            order_by=tuple(name for name in ("tenant_id", "date") if any(c.name == name for c in model.columns)),
        )
        for model in models().values()
        if model.layer == "marts"
    )
