"""`analytics tuning status`, `explain`, `pin`, `veto` and `release`: what steps may have, why, and a person's word on it."""

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from analytics_assets.commands.common import DONE, audit_log, echo_json, json_option, pipeline, settings
from analytics_assets.console import counted, say, show
from analytics_assets.settings import UserError

if TYPE_CHECKING:
    from analytics_assets.tuning.config_tables import Decision, Standing
    from analytics_assets.tuning.in_force import ResourceConfig
    from analytics_assets.tuning.step_resources import StepResources

_NOTHING = "nothing is known of any step yet; run `analytics tuning decide`, or let Dagster's daily schedule do it"


def _resources() -> "StepResources":
    from analytics_assets.tuning.step_resources import StepResources

    return StepResources.declared(settings())


def _reason(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if len(value.strip()) < 3:
        raise click.BadParameter("say why, for those who come later")
    return value.strip()


_why = click.option("--reason", required=True, callback=_reason, help="Why; kept and shown.")


@click.command()
@json_option
def decide(as_json: bool) -> int:
    """Decide now what steps may have.

    Dagster's schedule does it once a day while `analytics dev` runs.
    """
    from analytics_assets.defs.run import Jobs

    jobs = Jobs(settings())
    jobs.run("telemetry")
    jobs.run("tune")
    return _status(as_json)


@click.command()
@json_option
def status(as_json: bool) -> int:
    """The memory and threads of each step, where they come from, and what would be better."""
    return _status(as_json)


def _status(as_json: bool) -> int:
    known = _resources()
    with pipeline().connect() as con:
        rows = list(known.standings(con).values())
    model = known.model()
    if as_json:
        echo_json(
            {"mode": known.rules.mode, "model": model.version, "fault": model.fault, "steps": [asdict(row) for row in rows]}
        )
        return DONE
    if not rows:
        raise UserError(_NOTHING)
    used = f"model {model.version} is in use" if model.model else "no model is in use"
    say(f"tuning.yaml says {known.rules.mode}; {used}")
    if model.fault is not None:
        say(model.fault)
    show(
        ("step", "input", "MB", "threads", "from", "timeout", "until (UTC)", "may", "advised MB", "saves", "why not more"),
        [line for row in rows for line in _lines(row)],
    )
    return DONE


def _lines(row: "Standing") -> list[tuple[Any, ...]]:
    """A step, and below it the classes of input that have, or are advised, something else."""
    lines: list[tuple[Any, ...]] = [
        (row.step, None, row.memory_mb, row.threads, f"model {row.model}" if row.model else row.source, None,
         row.until and f"{row.until:%Y-%m-%d %H:%M}", row.mode, row.advised_mb, _saving(row.saving), row.reasons)
    ]  # fmt: skip
    for one in row.classes:
        timeout = one.timeout_seconds and str(timedelta(seconds=one.timeout_seconds))
        lines.append(
            (None, one.input_class, one.memory_mb, None, None, timeout, None, None, one.advised_mb, _saving(one.saving), None)
        )
    return lines


def _saving(part: float | None) -> str | None:
    return None if part is None else f"{part:.0%}"


@click.command()
@json_option
def retrain(as_json: bool) -> int:
    """Learn anew what steps need, and decide.

    What was learned up to a week ago is judged by the runs since; only what is better is promoted. Dagster's schedule does
    it once a week.
    """
    from analytics_assets.defs.run import Jobs

    jobs = Jobs(settings())
    jobs.run("telemetry")
    metadata = jobs.run("retrain").asset_materializations_for_node("resource_models")[0].metadata
    if as_json:
        echo_json({name: value.value for name, value in metadata.items()})
    else:
        say(str(metadata["said"].value))
    return DONE


@click.command()
@_why
def rollback(reason: str) -> int:
    """Use the model before the present one; steps leave what the present one gave them."""
    from analytics_assets.defs.run import Jobs

    known = _resources()
    version = known.model().version
    with audit_log().act("tune", reason=reason, details={"what": "rollback", "from_model": version}) as act:
        model = known.go_back()
        act.details["to_model"] = model.version if model else 0
    Jobs(settings()).run("tune")
    say(f"model {model.version} is in use again" if model else "no model is in use any more; steps have what limits.yaml says")
    return DONE


@click.command("explain")
@click.argument("name", metavar="ASSET")
@click.option("--last", type=click.IntRange(1, 1000), default=10, show_default=True, help="So many decisions, newest first.")
@json_option
def explain_step(name: str, last: int, as_json: bool) -> int:
    """What the step that makes ASSET may have, on what that stands, and every decision about it."""
    from analytics_assets.events.intake import utc_now

    known = _resources()
    with pipeline().connect() as con:
        step = known.step_of(con, name, utc_now())
        row = known.standings(con).get(step)
        decisions = [one for one in known.decisions(con) if one.step == step][::-1][:last]
    if row is None:
        raise UserError(_NOTHING)
    if as_json:
        echo_json({"in_force": asdict(row), "decisions": [asdict(one) for one in decisions]})
        return DONE
    for line in _told(row):
        say(line)
    if decisions:
        show(
            ("decided (UTC)", "what", "MB", "before", "why", "effect"),
            [
                (f"{one.decided_at:%Y-%m-%d %H:%M}", one.kind, one.memory_mb, one.was_mb, one.reasons, _effect(one))
                for one in decisions
            ],
        )
    return DONE


def _told(row: "Standing") -> list[str]:
    rungs = json.loads(row.retry_mb) if row.retry_mb else []
    after = f", then {', '.join(f'{size:,}' for size in rungs)} MB where that was not enough" if rungs else ""
    since = f" since {row.since:%Y-%m-%d %H:%M} UTC" if row.since else ""
    origin = (
        f"model {row.model}" if row.model else f"a person ({row.source})" if row.source in ("pin", "veto") else "limits.yaml"
    )
    lines = [
        f"{row.step} makes {', '.join(json.loads(row.assets))}",
        f"It has {row.memory_mb:,} MB and {counted(row.threads, 'thread')}{after}, by {origin}{since}",
    ]
    lines += [
        f"For an input {one.input_class} it has {one.memory_mb:,} MB" + (
            f"; {one.advised_mb:,} MB are advised ({one.candidate}), by {counted(one.judged or 0, 'run')} of that week"
            if one.advised_mb is not None and one.advised_mb != one.memory_mb else ""
        ) + (f"; an attempt may take {timedelta(seconds=one.timeout_seconds)}" if one.timeout_seconds else "")
        for one in row.classes
    ]  # fmt: skip
    if row.until is not None:
        lines.append(f"That ends on {row.until:%Y-%m-%d %H:%M} UTC; the reason given: {row.said}")
    lines.append(f"Tuning may {row.mode}: {row.reasons}")
    if row.advised_mb is not None and row.saving is not None:
        lines.append(
            f"Model {row.advised_model} advises {row.advised_mb:,} MB ({row.candidate}): it would have saved {row.saving:.0%} "
            f"({row.saving_lower:.0%} to {row.saving_upper:.0%}) of memory times time in {counted(row.judged or 0, 'run')} "
            "that it had not seen"
        )
    if row.baseline_runs is not None and row.baseline_first is not None and row.baseline_last is not None:
        when = f"{row.baseline_first:%Y-%m-%d} to {row.baseline_last:%Y-%m-%d}"
        took = f"{row.baseline_seconds:,.1f} s and {row.baseline_gib_hours:.4f} GiB hours in the middle"
        lines.append(f"Its baseline: {counted(row.baseline_runs, 'run')} from {when}, {took}")
    return lines


def _effect(one: "Decision") -> str | None:
    if one.effect is None:
        return None
    if one.effect_saving is None:
        return one.effect_reasons
    saved = f"{one.effect_saving:.0%} saved ({one.effect_lower:.0%} to {one.effect_upper:.0%})"
    return f"{saved}; {one.effect_reasons}"


def _until(command: Callable[..., Any]) -> Callable[..., Any]:
    days = click.IntRange(1, 365)
    return click.option("--days", type=days, default=28, show_default=True, help="Days after which it ends by itself.")(command)


@click.command()
@click.argument("name", metavar="ASSET")
@click.option("--memory-mb", type=click.IntRange(128, 1_048_576), required=True, help="DuckDB's memory, in MB.")
@click.option("--threads", type=click.IntRange(1, 256), help="DuckDB's threads; as limits.yaml says, if left out.")
@_until
@_why
def pin(name: str, memory_mb: int, threads: int | None, days: int, reason: str) -> int:
    """Give the step that makes ASSET this, whatever is learned. It holds from its next run on."""
    from analytics_assets.tuning.in_force import ResourceConfig

    return _say_of(name, "pin", days, reason, ResourceConfig(memory_mb, threads or settings().limits.storage.threads))


@click.command()
@click.argument("name", metavar="ASSET")
@_until
@_why
def veto(name: str, days: int, reason: str) -> int:
    """Leave the step that makes ASSET what limits.yaml says, whatever is learned."""
    return _say_of(name, "veto", days, reason, None)


def _say_of(name: str, kind: Any, days: int, reason: str, config: "ResourceConfig | None") -> int:
    from analytics_assets.events.intake import utc_now
    from analytics_assets.tuning.licence import Override

    known, now = _resources(), utc_now()
    override = Override(kind, reason, now + timedelta(days=days))
    with pipeline().connect() as con:
        step = known.step_of(con, name, now)
        details: dict[str, Any] = {"what": kind, "step": step, "until": _plain(override.until)}
        with audit_log().act("tune", reason=reason, details=details) as act:
            row = known.pin(con, step, override, config, now)
            act.details["to_mb"] = row.memory_mb
    _say_in_force(row)
    return DONE


def _plain(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


@click.command()
@click.argument("name", metavar="ASSET")
@_why
def release(name: str, reason: str) -> int:
    """Take back what a person said of the step that makes ASSET: it has what limits.yaml says until tuning decides."""
    from analytics_assets.events.intake import utc_now

    known, now = _resources(), utc_now()
    with pipeline().connect() as con:
        step = known.step_of(con, name, now)
        with audit_log().act("tune", reason=reason, details={"what": "release", "step": step}):
            row = known.release(con, step, reason, now)
    _say_in_force(row)
    return DONE


def _say_in_force(row: "Standing") -> None:
    until = f", until {row.until:%Y-%m-%d %H:%M} UTC" if row.until else ""
    say(f"{row.step} has {row.memory_mb:,} MB and {counted(row.threads, 'thread')} from its next run on{until}")


COMMANDS = (decide, status, explain_step, pin, veto, release, retrain, rollback)
