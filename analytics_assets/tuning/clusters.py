"""What a step asks of a cluster that runs it in a process of its own: a pod of Kubernetes, or a job of Ray.

It asks for the memory of DuckDB and for what the process holds beside it. For what it was made the process finds in its
environment, and it holds to that: it has this for itself alone, whatever is in force by the time it begins.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import Field, ValidationError, model_validator

from analytics_assets.settings import Declared, UserError
from analytics_assets.tuning.in_force import LEAST_MB, MOST_MB, MOST_THREADS, InForce, NotEnoughMemory, ResourceConfig
from analytics_assets.tuning.rules import FILE, TuningRules

VARIABLE = "ANALYTICS_STEP"
_MB = 1_000_000


class Allotment(Declared):
    """What is in force for a step as a process of a cluster is told it; memory in MB. `most_mb`: no step may have more."""

    memory_mb: int = Field(ge=LEAST_MB, le=MOST_MB)
    threads: int = Field(ge=1, le=MOST_THREADS)
    retry_mb: tuple[int, ...] = ()
    source: str = "default"
    most_mb: int = Field(ge=LEAST_MB)

    @model_validator(mode="after")
    def _ascending(self) -> "Allotment":
        sizes = [self.memory_mb, *self.retry_mb, self.most_mb]
        if sizes != sorted(sizes) or len(set(sizes[:-1])) < len(sizes) - 1:
            raise ValueError(f"{sizes} are no ascending sizes")
        return self

    @property
    def config(self) -> ResourceConfig:
        return ResourceConfig(self.memory_mb, self.threads, self.retry_mb, self.source)


@dataclass(frozen=True)
class Ask:
    """What a process asks for: MB that are kept for it, MB that it may hold at most, processors; and what it is told."""

    request_mb: int
    limit_mb: int
    cpus: int
    told: str


def allotment(step: str, known: InForce, preset: ResourceConfig, rules: TuningRules, most_mb: int, now: datetime) -> Allotment:
    """What is in force for a step, with its ladder of attempts up to `most_mb`. Raises NotEnoughMemory if it begins above."""
    config = known.of(step, preset, now).within(rules.out_of_memory, most_mb)
    if config.memory_mb > most_mb:
        raise NotEnoughMemory(
            f"{step} is to have {config.memory_mb:,} MB, and a step of this cluster has {most_mb:,} MB at most; give it less "
            f"(limits.yaml, or `analytics tuning pin`), or steps more (`memory` of {FILE})"
        )
    return Allotment(
        memory_mb=config.memory_mb,
        threads=config.threads,
        retry_mb=config.retry_mb,
        source=config.source,
        most_mb=most_mb,
    )


def ask(given: Allotment, pod_mb: int, attempt: int | None = None) -> Ask:
    """For an attempt (from 1). Without one for whatever attempt comes: enough is kept for the first, and the last fits."""
    config = given.config
    first, last = (1, config.attempts) if attempt is None else (attempt, attempt)
    request_mb, limit_mb = (config.memory_of(number) + pod_mb for number in (first, last))
    return Ask(request_mb, limit_mb, config.threads, given.model_dump_json())


def told(environment: Mapping[str, str]) -> Allotment | None:
    """For what this process was made; None if no cluster made it for a step. Raises UserError for what nobody here wrote."""
    text = environment.get(VARIABLE)
    if not text:
        return None
    try:
        return Allotment.model_validate_json(text)
    except ValidationError:
        raise UserError(f"{VARIABLE} is set to what no executor of this project writes; remove it") from None


def for_kubernetes(asked: Ask) -> dict[str, Any]:
    """The entry of a step in `per_step_k8s_config` of dagster-k8s. A processor is asked for, and never taken away."""
    memory = {"requests": f"{asked.request_mb}M", "limits": f"{asked.limit_mb}M"}
    return {
        "container_config": {
            "resources": {
                "requests": {"cpu": str(asked.cpus), "memory": memory["requests"]},
                "limits": {"memory": memory["limits"]},
            },
            "env": [{"name": VARIABLE, "value": asked.told}],
        },
        # What is declared for all pods besides (other variables, volumes) stays.
        "merge_behavior": "DEEP",
    }


def for_ray(asked: Ask) -> dict[str, Any]:
    """What dagster-ray passes on to Ray for a step: processors, and bytes. Ray keeps them free, and enforces neither."""
    return {"num_cpus": asked.cpus, "memory": asked.limit_mb * _MB}


def merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """What a person says of a step upon what it asks for: their values win, and their lists come after ours."""
    both = {**ours}
    for name, value in theirs.items():
        mine = ours.get(name)
        if isinstance(mine, Mapping) and isinstance(value, Mapping):
            both[name] = merged(mine, value)
        elif isinstance(mine, list) and isinstance(value, list):
            both[name] = [*mine, *(one for one in value if one not in mine)]
        else:
            both[name] = value
    return both
