"""Alerts over a data home: opened and ended by a look, told to their channels, and kept.

A channel is told at least once: what was told is noted right after, so that only a process killed between the two tells
it twice, under the same id. A receiver that is dead holds up its own channel until the next look, and nothing else.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from analytics_assets.alerts.channels import Undelivered, tell
from analytics_assets.alerts.declared import AlertRules, load_alert_rules
from analytics_assets.alerts.journal import ALERTS, Alert, settle, to_tell
from analytics_assets.alerts.problems import Fault, Problem, wrong_declarations
from analytics_assets.settings import Settings
from analytics_assets.slo.tables import WATCH_LOCK
from analytics_assets.warehouse.home import Busy, Home
from analytics_assets.warehouse.records import read, write

TELLING_LOCK = "telling"


@dataclass(frozen=True)
class AlertWatch:
    """The alerts of one data home."""

    home: Home
    rules: AlertRules

    @classmethod
    def declared(cls, settings: Settings) -> "AlertWatch":
        """As `alerts.yaml` declares them. Raises ConfigError."""
        return cls(Home(settings.home), load_alert_rules(settings.config / AlertRules.FILE))

    @classmethod
    def despite(cls, settings: Settings, faults: Mapping[str, Fault]) -> "AlertWatch":
        """As far as `alerts.yaml` can be read: what is wrong is told all the same."""
        return cls(Home(settings.home), AlertRules.last_resort()) if AlertRules.FILE in faults else cls.declared(settings)

    @property
    def log(self) -> Path:
        return self.home.root / "alerts.log"

    def alerts(self, con: duckdb.DuckDBPyConnection) -> list[Alert]:
        """Every alert that is kept, the one opened first first."""
        return [Alert(*row) for row in read(con, self.home, ALERTS)]

    def settle(
        self, con: duckdb.DuckDBPyConnection, found: Sequence[Problem], now: datetime,
        is_held: Callable[[Alert], bool] = lambda alert: False,
    ) -> list[Alert]:  # fmt: skip
        """Open and end alerts by what was found; returns those that are open."""
        with self.home.lock(WATCH_LOCK):
            known = self.alerts(con)
            alerts = settle(known, found, self.rules.routes, self.rules.runbooks, now, is_held)
            if alerts != known:
                self._keep(con, alerts)
        return [alert for alert in alerts if alert.resolved_at is None]

    def settle_faults(self, con: duckdb.DuckDBPyConnection, faults: Mapping[str, Fault], now: datetime) -> list[Alert]:
        """Open and end alerts on declarations by what is wrong with which file; the others stand as they are."""
        # While alerts.yaml is wrong the others would be told to the log alone: they are opened when it is right.
        first = {file: fault for file, fault in faults.items() if file == AlertRules.FILE} or faults
        still = {f"declaration_wrong/{file}" for file in faults}
        found = wrong_declarations(first, now)
        return self.settle(con, found, now, lambda alert: alert.rule != "declaration_wrong" or alert.key in still)

    def tell(
        self, con: duckdb.DuckDBPyConnection, now: datetime, environment: Mapping[str, str] = os.environ
    ) -> tuple[int, dict[str, str]]:
        """Tell every channel what it was not told yet, in order; returns how much was told, and why a channel could not be."""
        try:
            # One process at a time: two would both tell it.
            with self.home.lock(TELLING_LOCK, wait_seconds=0):
                return self._tell(con, now, environment)
        except Busy:
            return 0, {}

    def _tell(
        self, con: duckdb.DuckDBPyConnection, now: datetime, environment: Mapping[str, str]
    ) -> tuple[int, dict[str, str]]:
        count, failed = 0, dict[str, str]()
        for name, channel in self.rules.every_channel.items():
            for message in to_tell(self.alerts(con), name):
                try:
                    tell(channel, message, self.log, environment)
                except Undelivered as error:
                    # What comes later is not told before what came first.
                    failed[name] = str(error)
                    break
                self._note(con, {alert.key: alert.opened_at for alert in message.alerts}, name, message.event, now)
                count += 1
        return count, failed

    def _note(
        self, con: duckdb.DuckDBPyConnection, told: Mapping[str, datetime], channel: str, event: str, now: datetime
    ) -> None:
        with self.home.lock(WATCH_LOCK):
            alerts = self.alerts(con)
            # A key may have been open before.
            noted = [
                alert.having(channel, event, now) if told.get(alert.key) == alert.opened_at else alert  # type: ignore[arg-type]
                for alert in alerts
            ]
            self._keep(con, noted)

    def _keep(self, con: duckdb.DuckDBPyConnection, alerts: Sequence[Alert]) -> None:
        write(con, self.home, ALERTS, [astuple(alert) for alert in alerts])
