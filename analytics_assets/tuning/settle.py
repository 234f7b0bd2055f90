"""What becomes of a step's resources now: a pure function of how it stands, what is known of it, what is declared and now.

The order is the one of trust: the word of a person that ended, the effect of what was changed, then the licence, and only then
a change or advice. Taking a change back is also done while changes are frozen: it goes back to what was known to work.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from statistics import median
from typing import Any

from analytics_assets.tuning.config_tables import Decision, Kind, OfClass, Source, Standing, in_order, sizes_of
from analytics_assets.tuning.effect import Effect, effect
from analytics_assets.tuning.history import StepRun, between
from analytics_assets.tuning.in_force import ResourceConfig
from analytics_assets.tuning.licence import Evidence, Override, licence, weeks_known
from analytics_assets.tuning.models import Learned
from analytics_assets.tuning.rules import TuningRules

# As `config_source` of telemetry names them.
SOURCES: dict[Source, str] = {"model": "model", "pin": "pinned", "veto": "vetoed"}
# A timeout that differs by less stays as it is.
TIMEOUT_MOVES = 0.25
_CHOSEN = tuple(SOURCES.values())


@dataclass(frozen=True)
class Known:
    """What is known of a step. `runs` are oldest first; `learned` is what the model in use, of that version, says of it.

    `frozen` says why no change may be made now; it is asked only where one would be. `timeouts` are what its runs say of how
    long an attempt may take, in seconds by class of input.
    """

    preset: ResourceConfig
    runs: Sequence[StepRun]
    learned: Learned | None = None
    version: int = 0
    frozen: Callable[[], str | None] = lambda: None
    timeouts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Settled:
    """How a step stands from now on, what was decided, and what was found out about the change before."""

    standing: Standing
    decisions: tuple[Decision, ...] = ()
    measured: Effect | None = None


def first_standing(step: str, assets: str, preset: ResourceConfig) -> Standing:
    """A step of which nothing was decided yet."""
    return Standing(
        step, assets, "observe", "nothing is known of it yet", "preset", None, preset.memory_mb, None, preset.threads
    )


def config_of(standing: Standing) -> ResourceConfig | None:
    """What is in force for a step; None for its preset."""
    if standing.source == "preset":
        return None
    # A person's word is for all inputs.
    own = {one.input_class: sizes_of(one.memory_mb, one.retry_mb) for one in standing.classes if standing.source == "model"}
    sizes = sizes_of(standing.memory_mb, standing.retry_mb)
    classes = {name: other for name, other in own.items() if other != sizes}
    named = f"model {standing.model}" if standing.source == "model" else SOURCES[standing.source]
    return ResourceConfig(sizes[0], standing.threads, sizes[1:], named, standing.until, classes)


def settle(standing: Standing, known: Known, rules: TuningRules, now: datetime) -> Settled:
    """Decide. Times in UTC without an offset."""
    runs = known.runs
    row = replace(standing, runs=len(runs), weeks=weeks_known([run.began for run in runs], now))
    decisions: list[Decision] = []
    row = _without_what_ended(row, known, now, decisions)
    if row.source == "preset":
        # Whatever limits.yaml says now.
        row = replace(row, memory_mb=known.preset.memory_mb, threads=known.preset.threads)
    measured = _effect(row, known, rules)
    if measured is not None:
        row = _after(row, known, measured, now, decisions)
    row = _advised(row, known)
    allowed = licence(rules.mode_of(row.step), _evidence(row, known, rules, now), rules.licence, now)
    row = replace(row, mode=allowed.mode, reasons="; ".join(allowed.reasons))
    # Stored now, for the next time: a baseline is there before anything is changed.
    stored = _with_baseline(row, runs, rules) if row.source == "preset" or row.trial == "kept" else row
    if _withdrawn(row, known):
        reason = f"model {row.model} is not in use any more"
        row = _to_preset(stored, known, now, "revert", reason, decisions)
    elif row.mode == "act" and _worth(row, rules) and known.learned is not None:
        row = _changed(stored, known, now, decisions)
    else:
        if row.mode != "observe" and _is_news(standing, row, rules):
            decisions.append(_decision(row, "advice", now, row.memory_mb, known, advised=True))
        row = stored
    row = _timed(_following(row), standing, known, rules, now, decisions)
    return Settled(row, tuple(decisions), measured)


def overridden(
    standing: Standing, known: Known, override: Override, now: datetime, config: ResourceConfig | None = None
) -> Settled:
    """The word of a person, from now on: `config` for a pin, the preset for a veto."""
    config, pinned = config or known.preset, config is not None
    row = replace(
        standing, source=override.kind, model=None, memory_mb=config.memory_mb, threads=config.threads,
        retry_mb=json.dumps(config.retry_mb) if config.retry_mb else None, since=now, until=override.until,
        said=override.reason, trial="running" if pinned else None,
    )  # fmt: skip
    return Settled(_following(row), (_decision(row, override.kind, now, standing.memory_mb, reasons=override.reason),))


def released(standing: Standing, known: Known, reason: str, now: datetime) -> Settled:
    """A person takes a word back; the step has its preset again until tuning decides."""
    decisions: list[Decision] = []
    return Settled(_following(_to_preset(standing, known, now, "release", reason, decisions)), tuple(decisions))


def override_of(standing: Standing) -> Override | None:
    if standing.source not in ("pin", "veto") or standing.until is None:
        return None
    return Override("pin" if standing.source == "pin" else "veto", standing.said or "", standing.until)


def _without_what_ended(row: Standing, known: Known, now: datetime, decisions: list[Decision]) -> Standing:
    override = override_of(row)
    if override is None or override.holds(now):
        return row
    return _to_preset(row, known, now, "ended", override.said, decisions)


def _effect(row: Standing, known: Known, rules: TuningRules) -> Effect | None:
    """What the change that is in force did so far; None where there is none to measure."""
    config = config_of(row)
    if row.trial != "running" or config is None or row.since is None or row.baseline_first is None or row.baseline_last is None:
        return None
    before = [run.fared for run in between(known.runs, row.baseline_first, row.baseline_last)]
    # Runs that had begun before, or found another config, say nothing about it.
    after = [run.fared for run in known.runs if run.began >= row.since and run.source == config.source]
    return effect(
        before, after, rules.effect, deadline=rules.deadline(row.step),
        lowered=min([config.memory_mb, *(sizes[0] for sizes in config.classes.values())]) < known.preset.memory_mb,
    )  # fmt: skip


def _after(row: Standing, known: Known, found: Effect, now: datetime, decisions: list[Decision]) -> Standing:
    reasons = "; ".join(found.reasons)
    if row.source == "model" and found.verdict == "revert":
        taken = replace(row, taken_back=row.model)
        return replace(_to_preset(taken, known, now, "revert", reasons, decisions), trial="reverted")
    if row.source == "model" and found.verdict == "keep":
        decisions.append(_decision(row, "keep", now, row.memory_mb, reasons=reasons))
        return replace(row, trial="kept")
    return row


def _advised(row: Standing, known: Known) -> Standing:
    said = known.learned
    if said is None:
        classes = tuple(OfClass(one.input_class, one.memory_mb, one.retry_mb) for one in row.classes if row.source == "model")
        return replace(row, classes=classes, advised_model=None, advised_mb=None, advised_retry_mb=None, candidate=None,
                       judged=None, saving=None, saving_lower=None, saving_upper=None)  # fmt: skip
    return replace(
        row, advised_model=known.version, advised_mb=said.requests_mb[0], advised_retry_mb=json.dumps(said.requests_mb[1:]),
        candidate=said.label, judged=said.judged, saving=said.saving, saving_lower=said.lower, saving_upper=said.upper,
        classes=_advised_classes(row, said),
    )  # fmt: skip


def _advised_classes(row: Standing, said: Learned) -> tuple[OfClass, ...]:
    """The classes of which the model says something, and those that have something."""
    found = []
    for name in {*said.classes, *(one.input_class for one in row.classes if row.source == "model")}:
        has, one = row.of_class(name), said.classes.get(name)
        memory_mb, retry_mb = (has.memory_mb, has.retry_mb) if has else (row.memory_mb, row.retry_mb)
        if one is None:
            found.append(OfClass(name, memory_mb, retry_mb))
        else:
            found.append(
                OfClass(name, memory_mb, retry_mb, one.runs, one.requests_mb[0], json.dumps(one.requests_mb[1:]), one.label,
                        one.judged, one.saving)
            )  # fmt: skip
    return in_order(found)


def _following(row: Standing) -> Standing:
    """Where nothing but the preset or a person's word is in force, that is so for inputs of all classes."""
    if row.source == "model":
        return row
    has: dict[str, Any] = {"memory_mb": row.memory_mb, "retry_mb": row.retry_mb}
    if row.source != "preset":
        has["timeout_seconds"] = None
    return replace(row, classes=tuple(replace(one, **has) for one in row.classes))


def _timed(
    row: Standing, before: Standing, known: Known, rules: TuningRules, now: datetime, decisions: list[Decision]
) -> Standing:
    """The same with the time that attempts may take, where tuning may act: a matter of its own, and no change of memory.

    A timeout is taken away whatever holds; a new one waits while changes are frozen.
    """
    had = {one.input_class: one.timeout_seconds for one in before.classes if one.timeout_seconds is not None}
    evidence = Evidence(weeks=row.weeks, baseline_runs=before.baseline_runs, won=True, override=override_of(row))
    may = licence(rules.mode_of(row.step), evidence, rules.licence, now).mode == "act"
    has = {name: seconds for name, seconds in had.items() if may and name in known.timeouts}
    new = {name: seconds for name, seconds in known.timeouts.items() if may and _moved(had.get(name), seconds)}
    if new and known.frozen() is None:
        has |= new
    named = {one.input_class for one in row.classes}
    missing = [OfClass(name, row.memory_mb, row.retry_mb) for name in has if name not in named]
    classes = [replace(one, timeout_seconds=has.get(one.input_class)) for one in (*row.classes, *missing)]
    row = replace(row, classes=in_order(classes))
    told = [f"an input {name}: {has[name]:,.0f} s" for name in has if has[name] != had.get(name)]
    told += [f"an input {name}: none any more" for name in had if name not in has]
    if told:
        reasons = f"attempts end after their timeout, for {', '.join(told)}"
        decisions.append(_decision(row, "timeout", now, row.memory_mb, reasons=reasons))
    return row


def _moved(had: float | None, seconds: float) -> bool:
    """Whether a timeout is so much longer or shorter that it is worth telling."""
    return had is None or abs(seconds - had) >= TIMEOUT_MOVES * had


def _evidence(row: Standing, known: Known, rules: TuningRules, now: datetime) -> Evidence:
    """As it is known before this look; the freeze is asked about only if all else permits acting."""
    active = None
    if row.trial == "running" and row.source == "model" and row.since is not None:
        active = f"model {row.model} since {row.since:%Y-%m-%d %H:%M} UTC is still being measured"
    taken = None
    if row.taken_back is not None and known.version <= row.taken_back:
        taken = f"model {row.taken_back} was taken back; only a newer one is tried"
    won = known.learned is not None and known.learned.saving > 0
    evidence = Evidence(
        weeks=row.weeks, baseline_runs=row.baseline_runs, won=won if known.version else None,
        active=active, taken_back=taken, override=override_of(row),
    )  # fmt: skip
    if licence(rules.mode_of(row.step), evidence, rules.licence, now).mode == "act" and _worth(row, rules):
        return replace(evidence, frozen=known.frozen())
    return evidence


def _with_baseline(row: Standing, runs: Sequence[StepRun], rules: TuningRules) -> Standing:
    """Store the newest runs under what is in force as the baseline, if they are enough."""
    config = config_of(row)
    mine = [
        run
        for run in runs
        if (
            run.limit_mb == row.memory_mb and not run.source.startswith(_CHOSEN)
            if config is None
            else run.source == config.source
        )
        and (row.since is None or run.began >= row.since)
    ][-rules.effect.most_runs :]
    if len(mine) < rules.licence.baseline_runs:
        return row
    return replace(
        row, baseline_first=mine[0].began, baseline_last=mine[-1].began, baseline_runs=len(mine),
        baseline_gib_hours=median(run.gib_hours for run in mine), baseline_seconds=median(run.seconds for run in mine),
    )  # fmt: skip


def _worth(row: Standing, rules: TuningRules) -> bool:
    """Whether what is advised differs from what is in force by enough."""
    return row.advised_mb is not None and _differ(_advice(row), _has(row), rules)


def _has(row: Standing) -> dict[str | None, int]:
    """Memory of the first attempt by class of input; None: of all others."""
    found: dict[str | None, int] = {None: row.memory_mb}
    return found | {one.input_class: one.memory_mb for one in row.classes if row.source == "model"}


def _advice(row: Standing) -> dict[str | None, int]:
    """As `_has`, of what is advised, if anything is."""
    if row.advised_mb is None:
        return {}
    found: dict[str | None, int] = {None: row.advised_mb}
    return found | {one.input_class: one.advised_mb for one in row.classes if one.advised_mb is not None}


def _differ(new: Mapping[str | None, int], old: Mapping[str | None, int], rules: TuningRules) -> bool:
    """Whether any class gets so much more or less that it is worth a change."""
    return any(
        abs(new.get(name, new[None]) - before) >= max(rules.worth * before, 1)
        for name in {*new, *old}
        for before in [old.get(name, old[None])]
    )


def _is_news(before: Standing, row: Standing, rules: TuningRules) -> bool:
    """Whether there is advice that was not given before."""
    if not _worth(row, rules) or row.source in ("pin", "veto"):
        return False
    told = _advice(before) if before.mode != "observe" else {}
    return not told or _differ(_advice(row), told, rules)


def _withdrawn(row: Standing, known: Known) -> bool:
    """Whether the model from which the config in force comes was replaced by one that says nothing, or was gone back from."""
    return row.source == "model" and row.model is not None and (known.learned is None or known.version < row.model)


def _changed(row: Standing, known: Known, now: datetime, decisions: list[Decision]) -> Standing:
    new = replace(
        row, source="model", model=known.version, memory_mb=row.advised_mb or row.memory_mb, retry_mb=row.advised_retry_mb,
        threads=known.preset.threads, since=now, until=None, said=None, trial="running",
        classes=tuple(
            replace(one, memory_mb=one.advised_mb, retry_mb=one.advised_retry_mb)
            for one in row.classes
            if one.advised_mb is not None
        ),
    )  # fmt: skip
    decisions.append(_decision(new, "change", now, row.memory_mb, known))
    return new


def _to_preset(row: Standing, known: Known, now: datetime, kind: Kind, reason: str, decisions: list[Decision]) -> Standing:
    preset = known.preset
    new = replace(
        row, source="preset", model=None, memory_mb=preset.memory_mb, retry_mb=None, threads=preset.threads, since=now,
        until=None, said=None, trial=None,
    )  # fmt: skip
    decisions.append(_decision(new, kind, now, row.memory_mb, reasons=reason))
    return new


def _decision(
    row: Standing, kind: Kind, now: datetime, was: int, known: Known | None = None, *, reasons: str | None = None,
    advised: bool = False,
) -> Decision:  # fmt: skip
    learned = known.learned if known else None
    sizes = _advice(row) if advised else _has(row)
    by_class = {name: mb for name, mb in sizes.items() if mb != sizes[None]}
    return Decision(
        decided_at=now, step=row.step, kind=kind, mode=row.mode, model=row.advised_model if advised else row.model,
        memory_mb=(row.advised_mb if advised else None) or row.memory_mb,
        retry_mb=row.advised_retry_mb if advised else row.retry_mb, threads=row.threads, was_mb=was, until=row.until,
        reasons=reasons or row.reasons, alternatives=json.dumps(learned.others) if learned else None,
        saving=learned.saving if learned else None, saving_lower=learned.lower if learned else None,
        saving_upper=learned.upper if learned else None, by_class=json.dumps(by_class) if by_class else None,
    )  # fmt: skip
