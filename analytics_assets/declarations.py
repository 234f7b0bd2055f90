"""Every file of declarations: whether it can be read, and what does not go on while it cannot.

A wrong line fails the load of the definitions. One that is saved while the system runs is found here before the job that
needs the file fails at night; `alerts/` tells it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from analytics_assets.alerts.problems import Fault
from analytics_assets.pipeline import Pipeline
from analytics_assets.settings import ConfigError

Read = Callable[[Pipeline], object]
_BLIND = "nothing else is looked for"


@dataclass(frozen=True)
class File:
    """A file of declarations. `read` raises ConfigError; `without` is what does not go on without it, in words."""

    read: Read
    without: str = _BLIND


def _labels(stages: Pipeline) -> object:
    from analytics_assets.labelling import load_labels

    return load_labels(stages.settings, stages.specs)


def _roles(stages: Pipeline) -> object:
    from analytics_assets.outgoing import declared_roles

    return declared_roles(stages.settings, stages.specs)


def _retention(stages: Pipeline) -> object:
    from analytics_assets.retention import read_rules

    return read_rules(stages.settings)


def _zones(stages: Pipeline) -> object:
    from analytics_assets.privacy.zones import Zones

    # Whether the commands exist that it names, each command looks itself.
    return Zones.load(stages.settings.config / "zones.yaml")


def _tuning(stages: Pipeline) -> object:
    from analytics_assets.tuning.rules import FILE, TuningRules

    return TuningRules.load(stages.settings.config / FILE)


def _scaling(stages: Pipeline) -> object:
    from analytics_assets.tuning.declared import load_scaling

    return load_scaling(stages.settings.config / "scaling.yaml", stages.settings.tenants)


def _calendar(stages: Pipeline) -> object:
    from analytics_assets.tuning.calendar import load_calendar

    return load_calendar(stages.settings.config / "calendar.yaml", stages.settings.tenants)


def _queues(stages: Pipeline) -> object:
    from analytics_assets.freshness.queues import load_queues

    return load_queues(stages.settings.config / "queues.yaml")


def _prices(stages: Pipeline) -> object:
    from analytics_assets.telemetry.prices import Prices

    return Prices.load(stages.settings.config / "prices.yaml")


# First those that a look for anything that is wrong reads itself.
FILES: Mapping[str, File] = {
    "alerts.yaml": File(lambda stages: stages.alerts),
    "tenants.yaml": File(lambda stages: stages.settings.tenants),
    "limits.yaml": File(lambda stages: stages.settings.limits),
    "freshness.yaml": File(lambda stages: stages.watch),
    "slos.yaml": File(lambda stages: stages.levels),
    "incidents.yaml": File(lambda stages: stages.settings.incidents),
    "consent.yaml": File(lambda stages: stages.consents.declared),
    "taxonomy.yaml": File(_labels),
    "tuning.yaml": File(_tuning, "every step that works with DuckDB fails"),
    "retention.yaml": File(_retention, "nothing is published and nothing ages out"),
    "roles.yaml": File(_roles, "nothing leaves by role, and where a role has files nothing is published"),
    "zones.yaml": File(_zones, "every command is refused"),
    "scaling.yaml": File(_scaling, "capacity is not planned, and the queue does not start anew"),
    "calendar.yaml": File(_calendar, "capacity is not planned"),
    "queues.yaml": File(_queues, "the queue does not start anew"),
    "prices.yaml": File(_prices, "what steps and queries take is not kept"),
}
_NO_LOAD = "no file is loaded"


def faults(stages: Pipeline) -> dict[str, Fault]:
    """What is wrong with which file, as it is now."""
    found = {}
    for name, file in FILES.items():
        try:
            file.read(stages)
        except ConfigError as error:
            found[name] = Fault(str(error), file.without, blinds=file.without == _BLIND)
    for path in sorted((stages.settings.config / "sources").glob("*.yaml")):
        state = path.stat()
        if sentence := _source(path, state.st_mtime_ns, state.st_size):
            found[f"sources/{path.name}"] = Fault(sentence, _NO_LOAD)
    return found


@lru_cache(256)
def _source(path: Path, changed: int, size: int) -> str | None:
    """What is wrong with a source: asked as it changes, since a database checks its expressions, too long for every look."""
    from analytics_assets.sources.mapping import load_source

    try:
        load_source(path)
    except ConfigError as error:
        return str(error)
    return None
