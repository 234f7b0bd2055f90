"""The log handler that measures every step by itself.

`dagster.yaml` names it. Dagster calls it in the process of the step, with every event of the run: a step begins and ends
without a line in its body. It imports little, since every process that belongs to a run makes one.
"""

import logging
from datetime import UTC, datetime
from typing import Literal

from dagster import DagsterEventType as Type

from analytics_assets.settings import Settings
from analytics_assets.telemetry.journal import Key, Measuring, attempts
from analytics_assets.warehouse.home import Home

BEGIN = {Type.STEP_START, Type.STEP_RESTARTED}
END = {Type.STEP_SUCCESS, Type.STEP_FAILURE, Type.STEP_UP_FOR_RETRY}
RUN_END: tuple[Literal[Type.RUN_SUCCESS, Type.RUN_FAILURE, Type.RUN_CANCELED], ...] = (
    Type.RUN_SUCCESS, Type.RUN_FAILURE, Type.RUN_CANCELED,
)  # fmt: skip

# Dagster makes a new handler for every run and step: what is going on is known to the process.
_going: dict[tuple[str, str], Measuring] = {}
_begun_here: set[str] = set()


class StepTelemetry(logging.Handler):
    """Measures each step from its first event to its last, in the process that runs it."""

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "dagster_event", None)
        if event is None:
            return
        try:
            self._notice(event.event_type, record.dagster_meta["run_id"], event.step_key)  # type: ignore[attr-defined]
        except Exception:
            # A step must not fail because it cannot be measured.
            self.handleError(record)

    def _notice(self, kind: Type, run_id: str, step: str | None) -> None:
        if kind is Type.RUN_START:
            _begun_here.add(run_id)
        elif kind in RUN_END:
            _begun_here.discard(run_id)
            # Of a run that was told to stop, a step may not have said that it ended.
            for run, name in [key for key in _going if key[0] == run_id]:
                _going.pop((run, name)).end()
        elif step is not None and kind in BEGIN:
            home = Home(Settings.from_env().home)
            number = 1 if kind is Type.STEP_START else attempts(home, run_id, step) + 1
            key, now = Key(run_id, step, number), datetime.now(UTC).replace(tzinfo=None)
            _going[run_id, step] = Measuring(home, key, now, shared=run_id in _begun_here)
        elif step is not None and kind in END and (run_id, step) in _going:
            _going.pop((run_id, step)).end()
