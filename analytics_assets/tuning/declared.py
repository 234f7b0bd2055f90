"""What is declared of forecasts and pools (`scaling.yaml`). Light, so that definitions load without a library for numbers."""

from collections.abc import Collection, Mapping
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from analytics_assets.settings import SLUG, ConfigError, Declared, line_of, read_yaml
from analytics_assets.tuning.scaling import ScalingPolicy
from analytics_assets.tuning.tables import Load, Mode

# The pool of the runs that leave room for stricter ones.
BACKGROUND = "background"


class ForecastRules(Declared):
    """How forecasts are made and judged."""

    horizon_hours: int = Field(12, ge=1, le=120, description="Hours ahead; what lies further is known less well.")
    shrinkage: float = Field(0.2, ge=0.001, le=10, description="Pull towards the referee; less needs more history.")
    refit_hours: int = Field(12, ge=1, le=168, description="Hours from one fit to the next in the rolling back-test.")
    history_hours: int = Field(1344, ge=336, le=8760, description="Hours of history that are read; more is slower to adapt.")
    judged_hours: int = Field(168, ge=48, le=8760, description="Hours of back-test in which the model has to beat the referee.")
    least_judged_hours: int = Field(24, ge=12, le=336, description="Hours of back-test under which the referee is used.")
    error_hours: int = Field(168, ge=48, le=8760, description="Hours of errors from which intervals are made.")


class Pool(ScalingPolicy):
    """A pool and its load. Loads are an hour, also where a decision is made four times in it."""

    serves: Load = Field(description="What its runs work through: events or work.")
    tenant: str | None = Field(None, description="Tenant whose own pool it is; shared, if left out.")


class Scaling(Declared):
    """The file."""

    mode: Mode = Field("advise", description="Whether loads are only forecast, capacity is decided, or applied too.")
    least_weeks: int = Field(4, ge=2, le=8, description="Weeks for which a load must be known before its pool is changed.")
    keep_days: int = Field(30, ge=2, le=365, description="Days for which decisions are kept; all are read with each one.")
    tenant_runs: int = Field(1, ge=1, le=16, description="Runs for one tenant alone at once; more let it take others' place.")
    warm_mb: int = Field(2048, ge=0, le=1_048_576, description="MB read into memory before opening hours; 0: nothing is.")
    forecast: ForecastRules = ForecastRules()
    pools: dict[str, Pool] = Field({}, max_length=50)

    @field_validator("pools")
    @classmethod
    def _names(cls, value: dict[str, Pool]) -> dict[str, Pool]:
        for name in value:
            if not SLUG.fullmatch(name):
                raise ValueError(f"'{name}' is no name of a pool; use at most 63 lower case letters, digits and hyphens")
        return value

    @model_validator(mode="after")
    def _one_pool_a_tenant(self) -> "Scaling":
        own = [pool.tenant for pool in self.pools.values() if pool.tenant]
        for tenant in own:
            if own.count(tenant) > 1:
                raise ValueError(f"the tenant '{tenant}' has two pools; keep one")
        return self

    def runs_of(self, tenant: str, in_force: Mapping[str, int]) -> int:
        """How many runs for that tenant alone may go at once; `in_force` are the limits of Dagster's pools."""
        for name, pool in self.pools.items():
            if pool.tenant == tenant:
                return in_force.get(name, max(pool.floor, self.tenant_runs))
        return self.tenant_runs


def load_scaling(path: Path, tenants: Collection[str]) -> Scaling:
    """Read the declarations. Raises ConfigError, also for a pool of a tenant that is not declared."""
    scaling: Scaling = Scaling.load(path)
    for name, pool in scaling.pools.items():
        if pool.tenant is not None and pool.tenant not in tenants:
            line = line_of(read_yaml(path)[1], ("pools", name, "tenant"))
            raise ConfigError(f"{path.name}:{line}: '{pool.tenant}' is no declared tenant; correct it")
    return scaling
