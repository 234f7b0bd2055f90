"""The tables of what steps may have and of what was decided about that, and what a row of each is."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Literal

from analytics_assets.tuning.classes import CLASSES
from analytics_assets.tuning.rules import Mode
from analytics_assets.warehouse.spec import Column, TableSpec

Source = Literal["preset", "model", "pin", "veto"]
Kind = Literal["advice", "change", "keep", "revert", "pin", "veto", "release", "ended", "timeout"]

_CONFIG = (
    Column("memory_mb", "BIGINT", "DuckDB's memory of the first attempt, in MB."),
    Column("retry_mb", "VARCHAR", "JSON list: of each attempt after one that ran out of memory; empty: as tuning.yaml says."),
    Column("threads", "INTEGER", "DuckDB's threads."),
)
_SAVING = (
    Column("saving", "DOUBLE", "Part of the preset's memory times time that the model expects to save, in its back-test."),
    Column("saving_lower", "DOUBLE", "With `saving_upper` its 95 % interval."),
    Column("saving_upper", "DOUBLE", "Other end of the interval."),
)

RESOURCE_CONFIGS = TableSpec(
    name="resource_configs",
    comment="One row a step and class of input: what is in force for the assets it makes, why, and what is advised.",
    columns=(
        Column("step", "VARCHAR", "Step of a job."),
        Column("input_class", "VARCHAR", "Inputs that the row is about, by the upper end of their bytes; empty: all others."),
        Column("assets", "VARCHAR", "JSON list of the assets that it makes."),
        Column("mode", "VARCHAR", "Most that tuning may do with it: observe, advise or act."),
        Column("reasons", "VARCHAR", "Why it may not do more, or why it may act, in sentences."),
        Column("source", "VARCHAR", "Where the config comes from: preset, model, pin or veto."),
        Column("model", "INTEGER", "Version of the model that it comes from; empty for any other source."),
        *_CONFIG,
        Column("since", "TIMESTAMP", "Since when it has been in force (UTC); empty for the preset it always had."),
        Column("until", "TIMESTAMP", "When the word of a person ends (UTC)."),
        Column("said", "VARCHAR", "Reason that the person gave."),
        Column("weeks", "INTEGER", "Weeks back from now in each of which it ran."),
        Column("runs", "INTEGER", "Runs that are known of it."),
        Column("advised_model", "INTEGER", "Version of the model that advises; empty for no advice."),
        Column("advised_mb", "BIGINT", "Memory that is advised for the first attempt, in MB."),
        Column("advised_retry_mb", "VARCHAR", "JSON list: what is advised after that."),
        Column("candidate", "VARCHAR", "What won the back-test for it."),
        Column("judged", "INTEGER", "Runs of the back-test that the model had not seen."),
        *_SAVING,
        Column("baseline_first", "TIMESTAMP", "First run of the stored baseline (UTC)."),
        Column("baseline_last", "TIMESTAMP", "Last run of the stored baseline (UTC)."),
        Column("baseline_runs", "INTEGER", "Runs of the stored baseline."),
        Column("baseline_gib_hours", "DOUBLE", "Median of GiB of memory limit times hours that they took, with all attempts."),
        Column("baseline_seconds", "DOUBLE", "Median of their seconds."),
        Column("trial", "VARCHAR", "Of a change: running, kept or reverted."),
        Column("taken_back", "INTEGER", "Newest version of the model that was taken back; it is not tried again."),
        Column("timeout_seconds", "DOUBLE", "Seconds after which an attempt with such an input is ended; empty for never."),
    ),
    time_column=None,
    order_by=("step", "input_class"),
)  # fmt: skip


@dataclass(frozen=True)
class OfClass:
    """What a step has for inputs of one class, and what is advised; all else is as it is for the step."""

    input_class: str
    memory_mb: int
    retry_mb: str | None
    runs: int = 0
    advised_mb: int | None = None
    advised_retry_mb: str | None = None
    candidate: str | None = None
    judged: int | None = None
    saving: float | None = None
    timeout_seconds: float | None = None


@dataclass(frozen=True)
class Standing:
    """How a step stands: its row of `resource_configs`, and in `classes` what differs in its rows for classes of input."""

    step: str
    assets: str
    mode: Mode
    reasons: str
    source: Source
    model: int | None
    memory_mb: int
    retry_mb: str | None
    threads: int
    since: datetime | None = None
    until: datetime | None = None
    said: str | None = None
    weeks: int = 0
    runs: int = 0
    advised_model: int | None = None
    advised_mb: int | None = None
    advised_retry_mb: str | None = None
    candidate: str | None = None
    judged: int | None = None
    saving: float | None = None
    saving_lower: float | None = None
    saving_upper: float | None = None
    baseline_first: datetime | None = None
    baseline_last: datetime | None = None
    baseline_runs: int | None = None
    baseline_gib_hours: float | None = None
    baseline_seconds: float | None = None
    trial: Literal["running", "kept", "reverted"] | None = None
    taken_back: int | None = None
    classes: tuple[OfClass, ...] = ()

    def of_class(self, name: str) -> OfClass | None:
        return next((one for one in self.classes if one.input_class == name), None)


# What a row for a class has of its own; the baseline and the interval are of the step as a whole.
_OWN = [field.name for field in fields(OfClass)]
_STANDING = {field.name for field in fields(Standing)}
_WHOLE = ("weeks", "saving_lower", "saving_upper", *(name for name in RESOURCE_CONFIGS.column_names if "baseline" in name))


def rows_of(standing: Standing) -> list[tuple[Any, ...]]:
    """The rows of a step: its own first, with no class, then one for each class."""
    whole = {name: getattr(standing, name, None) for name in RESOURCE_CONFIGS.column_names}
    rows = [whole]
    for one in standing.classes:
        rows.append({**whole, **dict.fromkeys(_WHOLE), **{name: getattr(one, name) for name in _OWN}})
    return [tuple(row.values()) for row in rows]


def standings_of(rows: Iterable[Sequence[Any]]) -> dict[str, Standing]:
    """What `rows_of` made, by step."""
    found: dict[str, Standing] = {}
    classes: dict[str, list[OfClass]] = {}
    for values in rows:
        row = dict(zip(RESOURCE_CONFIGS.column_names, values, strict=True))
        step = row["step"]
        if row["input_class"] is None:
            found[step] = Standing(**{name: value for name, value in row.items() if name in _STANDING})
        else:
            classes.setdefault(step, []).append(OfClass(**{name: row[name] for name in _OWN}))
    return {step: replace(one, classes=in_order(classes.get(step, ()))) for step, one in found.items()}


def in_order(classes: Iterable[OfClass]) -> tuple[OfClass, ...]:
    """From the smallest inputs to the largest; a class of which this version knows nothing comes last."""
    place = {name: number for number, name in enumerate(CLASSES)}
    return tuple(sorted(classes, key=lambda one: (place.get(one.input_class, len(place)), one.input_class)))


def sizes_of(memory_mb: int, retry_mb: str | None) -> tuple[int, ...]:
    """Memory of the first attempt and of those after it."""
    return (memory_mb, *(json.loads(retry_mb) if retry_mb else ()))


TUNING_DECISIONS = TableSpec(
    name="tuning_decisions",
    comment="One row a decision about a step's resources: what, why, what else there was, and later what it did.",
    columns=(
        Column("decided_at", "TIMESTAMP", "When it was decided (UTC)."),
        Column("step", "VARCHAR", "Step of a job."),
        Column("kind", "VARCHAR", "advice, change, keep, revert, timeout by tuning; pin, veto, release by a person; ended."),
        Column("mode", "VARCHAR", "Most that tuning might do with the step then."),
        Column("model", "INTEGER", "Version of the model that it follows; empty for none."),
        *_CONFIG,
        Column("was_mb", "BIGINT", "Memory that was in force before."),
        Column("until", "TIMESTAMP", "When the word of a person ends (UTC)."),
        Column("reasons", "VARCHAR", "Every reason, in sentences; of a person the one that was given."),
        Column("alternatives", "VARCHAR", "JSON list: the next best, with what each was expected to cost over the preset."),
        *_SAVING,
        Column("effect", "VARCHAR", "Of what was put in force, by the runs since: wait, keep or revert; empty for none."),
        Column("effect_at", "TIMESTAMP", "When that was found (UTC)."),
        Column("effect_reasons", "VARCHAR", "Why."),
        Column("effect_before", "INTEGER", "Runs of the baseline that it was held against."),
        Column("effect_runs", "INTEGER", "Runs since."),
        Column("effect_saving", "DOUBLE", "Part of memory times time that was saved; negative: it took more."),
        Column("effect_lower", "DOUBLE", "With `effect_upper` its 95 % interval."),
        Column("effect_upper", "DOUBLE", "Other end of the interval."),
        Column("by_class", "VARCHAR", "JSON object: memory of the first attempt, for classes of input that have another."),
    ),
    time_column=None,
    order_by=("decided_at", "step"),
)  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """A row of `tuning_decisions`."""

    decided_at: datetime
    step: str
    kind: Kind
    mode: Mode
    model: int | None
    memory_mb: int
    retry_mb: str | None
    threads: int
    was_mb: int
    until: datetime | None
    reasons: str
    alternatives: str | None = None
    saving: float | None = None
    saving_lower: float | None = None
    saving_upper: float | None = None
    effect: Literal["wait", "keep", "revert"] | None = None
    effect_at: datetime | None = None
    effect_reasons: str | None = None
    effect_before: int | None = None
    effect_runs: int | None = None
    effect_saving: float | None = None
    effect_lower: float | None = None
    effect_upper: float | None = None
    by_class: str | None = None
