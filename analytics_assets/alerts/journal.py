"""Alerts from opening to end: what a look changes, what is still to be told to whom, and in which words. Pure functions."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import groupby
from typing import Literal

from analytics_assets.alerts.problems import Problem, Severity
from analytics_assets.alerts.sentence import names
from analytics_assets.freshness.judge import minutes, moment
from analytics_assets.warehouse.spec import Column, TableSpec

Event = Literal["opened", "resolved"]
# So long what is over, and was told, is kept.
_KEPT = timedelta(days=90)

ALERTS = TableSpec(
    name="alerts",
    comment="One row an alert: opened once, told once, over once.",
    columns=(
        Column("key", "VARCHAR", "Rule and what it is about; one alert of a key is open at a time."),
        Column("rule", "VARCHAR", "Alerting rule; its runbook has its name."),
        Column("tenant_id", "VARCHAR", "Tenant; empty where it concerns all."),
        Column("severity", "VARCHAR", "warn or page: the worst it was."),
        Column("what", "VARCHAR", "What is wrong, as it was when the alert opened."),
        Column("cause", "VARCHAR", "What upstream probably caused it."),
        Column("since", "TIMESTAMP", "Since when it is wrong (UTC)."),
        Column("runbook", "VARCHAR", "Where it stands what to do."),
        Column("opened_at", "TIMESTAMP", "When it was noticed (UTC)."),
        Column("notified_at", "TIMESTAMP", "When a channel first had it (UTC); empty while none has."),
        Column("resolved_at", "TIMESTAMP", "When it was over (UTC); empty while it is open."),
        Column(
            "deliveries", "VARCHAR", "JSON object: channel to when it had `opened` and `resolved`; null is still to be told."
        ),
    ),
    time_column=None,
    order_by=("opened_at", "key"),
)


@dataclass(frozen=True)
class Alert:
    """A row of `alerts`."""

    key: str
    rule: str
    tenant_id: str | None
    severity: Severity
    what: str
    cause: str
    since: datetime
    runbook: str
    opened_at: datetime
    notified_at: datetime | None = None
    resolved_at: datetime | None = None
    deliveries: str = "{}"

    @property
    def told(self) -> dict[str, dict[Event, str | None]]:
        found: dict[str, dict[Event, str | None]] = json.loads(self.deliveries)
        return found

    def with_channels(self, channels: Iterable[str]) -> "Alert":
        known = self.told
        return replace(self, deliveries=json.dumps({**{name: {} for name in channels}, **known}))

    def lacks(self, channel: str) -> list[tuple[datetime, Event]]:
        """What the channel is still to be told, in order."""
        told = self.told.get(channel)
        if told is None:
            return []
        events: list[tuple[datetime | None, Event]] = [(self.opened_at, "opened"), (self.resolved_at, "resolved")]
        return [(at, event) for at, event in events if at is not None and not told.get(event)]

    def having(self, channel: str, event: Event, now: datetime) -> "Alert":
        """The alert after the channel was told."""
        told = self.told
        told[channel] = {**told[channel], event: now.isoformat()}
        return replace(self, deliveries=json.dumps(told), notified_at=self.notified_at or now)

    @property
    def is_done(self) -> bool:
        return self.resolved_at is not None and not any(self.lacks(channel) for channel in self.told)


@dataclass(frozen=True)
class Message:
    """What one channel is told at once: an event of alerts that opened, or ended, together and for the same cause."""

    event: Event
    at: datetime
    alerts: tuple[Alert, ...]

    @property
    def id(self) -> str:
        """The same for every attempt: a receiver that had it knows it again."""
        named = "\n".join([self.event, self.at.isoformat(), *sorted(alert.key for alert in self.alerts)])
        return sha256(named.encode()).hexdigest()[:32]

    @property
    def tenants(self) -> list[str]:
        return list(dict.fromkeys(alert.tenant_id for alert in self.alerts if alert.tenant_id))

    @property
    def title(self) -> str:
        first = self.alerts[0]
        whose = f": {names(self.tenants)}" if self.tenants else ""
        return _line(f"[{'resolved' if self.event == 'resolved' else first.severity}] {first.rule}{whose}")

    @property
    def text(self) -> str:
        """What is wrong, for whom, since when, how bad, why probably, and what to do."""
        first = self.alerts[0]
        since = min(alert.since for alert in self.alerts)
        told = [
            alert.what if not alert.tenant_id or len(self.alerts) == 1 else f"{alert.tenant_id}: {alert.what}"
            for alert in self.alerts
        ]
        shown = [_line(what) for what in told[:5]] + ([f"and {len(told) - 5} more"] if len(told) > 5 else [])
        if self.event == "resolved":
            lasted = f"over since {moment(self.at)}, after {minutes(max(self.at - since, timedelta(0)))}"
            return "\n".join([self.title, lasted, *(f"it was: {what}" for what in shown)])
        return "\n".join(
            [self.title, *shown, f"since: {moment(since)}", _line(f"probably: {first.cause}"), f"what to do: {first.runbook}"]
        )


def _line(text: str) -> str:
    """Text on one line: names of files and values of events may hold anything."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def settle(
    known: Sequence[Alert], found: Sequence[Problem], routes: Mapping[Severity, Sequence[str]], runbooks: str, now: datetime
) -> list[Alert]:
    """The alerts after a look: a new problem opens one, a problem that is gone ends it, one that got worse is told to more."""
    problems = {problem.key: problem for problem in found}
    open_keys = {alert.key for alert in known if alert.resolved_at is None}
    alerts = []
    for alert in known:
        problem = problems.get(alert.key)
        if alert.resolved_at is not None:
            if not alert.is_done or now - alert.resolved_at < _KEPT:
                alerts.append(alert)
        elif problem is None:
            alerts.append(replace(alert, resolved_at=now))
        elif problem.severity == "page" and alert.severity == "warn":
            worse = replace(alert, severity="page", what=problem.what, cause=problem.cause)
            alerts.append(worse.with_channels(routes["page"]))
        else:
            alerts.append(alert)
    for problem in problems.values():
        if problem.key not in open_keys:
            link = f"{runbooks.rstrip('/')}/{problem.rule}.md"
            shown = (problem.rule, problem.tenant, problem.severity, problem.what, problem.cause, problem.since, link, now)
            alerts.append(Alert(problem.key, *shown).with_channels(routes[problem.severity]))
    return alerts


def to_tell(alerts: Iterable[Alert], channel: str) -> list[Message]:
    """What a channel is still to be told, oldest first; what opened together for the same cause is one message."""
    lacking = [(at, event, alert.rule, alert.cause, alert) for alert in alerts for at, event in alert.lacks(channel)]
    lacking.sort(key=lambda item: (*item[:4], item[4].key))
    return [
        Message(event, at, tuple(item[4] for item in group))
        for (at, event, _, _), group in groupby(lacking, key=lambda item: item[:4])
    ]
