"""`analytics explain`: what stands behind a published number, on one screen."""

import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import click

from analytics_assets.commands.common import DONE, echo_json, json_option, pipeline
from analytics_assets.console import counted, say, show
from analytics_assets.freshness.judge import minutes
from analytics_assets.settings import UserError

_INDENT = " " * 11
_MOST = 4
# A verdict of several tenants says how many they are.
_TENANTS = re.compile(r"^\d+ tenants?: ")


@click.command("explain")
@click.argument("name", metavar="TABLE[.COLUMN]")
@click.option("--tenant", help="Only the numbers of this tenant.")
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="Only those of this day (UTC).")
@json_option
def explain_number(name: str, tenant: str | None, day: datetime | None, as_json: bool) -> int:
    """What stands behind a published number.

    Sources and batches, the run that published it, checks, how fresh it is, its label, where it comes from, and whether a
    model had a part. TABLE alone lists the columns.
    """
    from analytics_assets.events.intake import utc_now
    from analytics_assets.explain import Asked, explain

    table, _, column = name.strip().partition(".")
    if not table or name.strip().endswith("."):
        raise UserError(f"'{name}' is no TABLE or TABLE.COLUMN, such as revenue_daily.revenue")
    asked, stages = Asked(table, column or None, tenant, day.date() if day else None), pipeline()
    with stages.connect() as con:
        told = explain(stages.settings, stages.specs, asked, lambda: stages.watch.look(con, utc_now()).statuses)
    if as_json:
        echo_json(told)
        return DONE
    say(_headline(told))
    for topic, text in _lines(told):
        _say(topic, text)
    click.echo()
    if told["columns"]:
        show(("column", "label", "kept", "comes from"), map(_column, told["columns"]))
    if told["deliveries"] and told["deliveries"]["newest"]:
        files = [(one["file"], one["source"], one["received_at"], _number(one["records"]), _number(one["rejected"]),
                  _number(one["rows"]), _seconds(one["seconds"])) for one in told["deliveries"]["newest"]]  # fmt: skip
        show(("newest files", "source", "received (UTC)", "records", "rejected", "in here", "to readers in"), files)
    return DONE


def _say(topic: str, text: str) -> None:
    width = max(60, min(shutil.get_terminal_size((120, 40)).columns, 140))
    for line in textwrap.wrap(text, width, initial_indent=topic.ljust(len(_INDENT)), subsequent_indent=_INDENT,
                              break_long_words=False, break_on_hyphens=False):  # fmt: skip
        say(line)


def _headline(told: Mapping[str, Any]) -> str:
    name = f"{told['table']}.{told['column']}" if told["column"] else str(told["table"])
    return ", ".join([name, *(str(told[narrowed]) for narrowed in ("tenant", "day") if told[narrowed])])


def _lines(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "is", told["what"] or told["row"]
    yield "rows", f"{told['rows']:,}"
    if told["column"]:
        yield "label", _label(told["label"])
    yield "comes from", _origin(told)
    yield "model", _model(told["model"])
    yield "brought by", _brought(told["deliveries"], told["table"])
    yield "version", _version(told)
    yield "checks", _checks(told)
    yield from (("", line) for line in _not_passed(told["checks"]["not_passed"]))
    yield "fresh", _fresh(told)


def _label(label: Mapping[str, Any] | None) -> str:
    if label is None:
        return "none yet: it is hidden from readers until taxonomy.yaml has one (`analytics privacy waiting`)"
    category = f" ({label['category']})" if label["category"] else ""
    said = f"{label['label']}{category}, {label['handling']} where data leave; for {label['purpose']}, kept as"
    loosened = f"; {label['loosened_by']}" if label["loosened_by"] else ""
    return f"{said} {label['retention']}, {label['owner']} answers for it{loosened}"


def _origin(told: Mapping[str, Any]) -> str:
    behind = told["comes_from"]
    if not behind["directly"]:
        return "what is delivered" if told["deliveries"] else "what the pipeline notes about itself"
    if not told["column"]:
        return ", ".join((*behind["tables"], *behind["choosing"]))
    said = _listed(behind["directly"])
    if set(behind["ends"]) != set(behind["directly"]):
        said += f", and these from {_listed(behind['ends'])}"
    if behind["choosing"]:
        said += f"; which rows there are also tells {_listed(behind['choosing'])}"
    mapped = [f"{one['source']} gives {one['column']} as {one['as']}" for one in behind["sources"]]
    return "; ".join([said, *mapped[:_MOST]])


def _model(model: Mapping[str, Any]) -> str:
    if not model["had_a_part"]:
        return "none had a part: nothing behind it is declared as a model's output"
    return "; ".join(f"{one['model']} had a part in {one['part']}, by table {one['table']}" for one in model["models"])


def _brought(deliveries: Mapping[str, Any] | None, table: str) -> str:
    if deliveries is None:
        return "no delivery"
    if not deliveries["batches"]:
        return "no delivery yet"
    unit = "event" if deliveries["counted"] == "events" else "row"
    said = f"{counted(deliveries['rows'], unit)} of {counted(deliveries['batches'], 'batch', 'batches')}"
    sources = [f"{one['source']} ({counted(one['batches'], 'batch', 'batches')})" for one in deliveries["sources"]]
    until = f"; up to {str(deliveries['until'])[:19]}, when the last session of the day ended" if deliveries["until"] else ""
    return f"{said}, from {_listed(sources)}{until}"


def _version(told: Mapping[str, Any]) -> str:
    version, run = told["version"], told["runs"]["published"]
    said = f"{version['version']}, published {_moment(version['published_at'])}"
    said += f" by {_run(run)}" if run else "; the audit log does not say by whom"
    if version["unchanged_since"] != version["version"]:
        said += f"; this table is as in version {version['unchanged_since']}"
    if version["rolled_back"]:
        said += f"; readers were put back to it, and publishing is held: {version['rolled_back']}"
    return said


def _run(run: Mapping[str, Any]) -> str:
    job = " ".join(filter(None, (run.get("job"), run.get("days"))))
    said = [f"run {run['run']}" + (f" ({job})" if job else "")] if run.get("run") else []
    said += [f"`{run['via']}`"] if run.get("via") else []
    return " of ".join(said) + (f", as {run['user']}" if run.get("user") else "")


def _checks(told: Mapping[str, Any]) -> str:
    checks, sums = told["checks"], counted(len(told["checks"]["of_the_version"]), "check")
    if not checks["judged_at"]:
        return f"none of its own; the version passed {sums} of sums between its tables"
    said = f"{_counts(checks)}; judged {_moment(checks['judged_at'])}"
    judged, published = told["runs"]["judged"], told["runs"]["published"]
    if judged and judged["run"] == (published or {}).get("run"):
        said += " by the same run"
    elif judged:
        said += f" by {_run(judged)}"
    behind = [f"{name} {_counts(counts)}" for name, counts in checks["behind"].items()]
    return said + (f". Of what is behind it: {'; '.join(behind)}" if behind else "")


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{counts[name]:,} {name}" for name in ("passed", "failed", "unknown") if counts[name]]
    return ", ".join(shown) or "nothing judged"


def _not_passed(verdicts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    failed = [one for one in verdicts if one["failed"]]
    for one in failed[:_MOST]:
        whose = one["failed_for"] or "all tenants"
        what = "a warning" if one["severity"] == "warn" else "declared in incidents.yaml, or it would hold the publish"
        yield f"failed {counted(one['failed'], 'time')}: {one['expectation']}, last on {one['failed_on']} ({whose}); {what}"
    if len(failed) > _MOST:
        yield f"and {len(failed) - _MOST} more failed; --json has all"
    unknown: dict[str, list[str]] = {}
    for one in verdicts:
        if not one["failed"] and not one["passed"]:
            unknown.setdefault(_TENANTS.sub("", one["why_unknown"] or "nobody noted why"), []).append(one["expectation"])
    for why, names in [*unknown.items()][:_MOST]:
        yield f"unknown, {why}: {_listed(names)}"


def _fresh(told: Mapping[str, Any]) -> str:
    statuses, through = told["freshness"], told["version"]["data_through"]
    reach = f"; events up to {_moment(through)}" if through else ""
    if not statuses:
        return f"as of the publish, without a promise of its own{reach}"
    worst = statuses[0]
    promise = f"promised {minutes(timedelta(minutes=worst['promised_minutes']))} ({worst['tier']})"
    if told["tenant"]:
        data = f", all received before {_moment(worst['data_through'])} is in it" if worst["data_through"] else ""
        age = f", the oldest that waits for {minutes(timedelta(minutes=worst['age_minutes']))}" if worst["age_minutes"] else ""
        return f"{worst['state']}: {worst['reason']}{data}{age}; {promise}{reach}"
    counts = {
        state: sum(one["state"] == state for one in statuses) for state in dict.fromkeys(one["state"] for one in statuses)
    }
    shown = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    known = [one["data_through"] for one in statuses if one["data_through"]]
    data = f"; of each all received before {_moment(min(known))} is in it" if known else ""
    first = f"; {worst['tenant_id']}: {worst['reason']}" if worst["state"] not in ("fresh", "quiet", "empty") else ""
    return f"of {counted(len(statuses), 'tenant')} {shown}{first}{data}; {promise}{reach}"


def _column(line: Mapping[str, Any]) -> Sequence[object]:
    label = line["label"]
    if label is None:
        return (line["column"], "none yet", "", "")
    return (line["column"], label["label"], label["retention"], _listed(label["inherited_from"]) or "declared")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _seconds(value: float | None) -> str | None:
    return None if value is None else minutes(timedelta(seconds=value)) if value >= 120 else f"{value:,.0f} s"
