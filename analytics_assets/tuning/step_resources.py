"""The resources of the steps of one data home: what they follow is read, what was decided is kept and put in force.

The tables are the truth. The file that steps read is made from them with every decision.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

import duckdb

from analytics_assets.settings import Settings, UserError
from analytics_assets.telemetry.probe import machine_memory
from analytics_assets.telemetry.steps import STEPS_LOCK
from analytics_assets.telemetry.tables import STEP_TELEMETRY, StepTelemetry
from analytics_assets.tuning.config_tables import (
    RESOURCE_CONFIGS,
    TUNING_DECISIONS,
    Decision,
    Standing,
    rows_of,
    standings_of,
)
from analytics_assets.tuning.features import STEP_FEATURES, features
from analytics_assets.tuning.history import History, history
from analytics_assets.tuning.in_force import ResourceConfig, read_in_force, write_in_force
from analytics_assets.tuning.licence import Override
from analytics_assets.tuning.models import InUse, Learned, Model, in_use, promote, use
from analytics_assets.tuning.rules import FILE, TuningRules
from analytics_assets.tuning.settle import Known, Settled, config_of, first_standing, overridden, released, settle
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.records import read, write
from analytics_assets.warehouse.spec import identifier
from analytics_assets.warehouse.table import Table

# Older runs say little about the code and the data of now, and each look reads them all.
HISTORY = timedelta(days=182)


@dataclass(frozen=True)
class Looked:
    """What a look at all steps decided, and what of telemetry was set aside for which reason."""

    standings: tuple[Standing, ...]
    decisions: tuple[Decision, ...]
    set_aside: Mapping[str, int]
    fault: str | None


@dataclass(frozen=True)
class Retrained:
    """A model that was promoted, None if nothing was better; the one that was in use before; from what was learned."""

    promoted: Model | None
    before: InUse
    found: History

    @property
    def said(self) -> str:
        """In a sentence."""
        if self.promoted is None:
            used = f"model {self.before.version} stays" if self.before.model else "there is none, and steps keep their presets"
            return f"no model is better than what is in use: {used}"
        steps = self.promoted.steps
        told = ", ".join(f"{step} {_memory(one)} (saves {one.saving:.0%})" for step, one in sorted(steps.items()))
        return f"model {self.promoted.version} was promoted: {told or 'every step keeps its preset'}"


@dataclass(frozen=True)
class StepResources:
    """What steps may have. `preset` is what limits.yaml says, `machine_mb` the memory of the machine."""

    home: Home
    rules: TuningRules
    preset: ResourceConfig
    machine_mb: int

    @classmethod
    def declared(cls, settings: Settings) -> "StepResources":
        """As `tuning.yaml` and `limits.yaml` declare it. Raises ConfigError."""
        storage = settings.limits.storage
        preset = ResourceConfig(storage.memory_mb, storage.threads, source=storage.config_source)
        return cls(Home(settings.home), TuningRules.load(settings.config / FILE), preset, machine_memory() // 1_000_000)

    @property
    def most_mb(self) -> int:
        """The most that a step may have."""
        return self.rules.memory.budget(self.machine_mb) - self.rules.beside_mb

    def history(self, con: duckdb.DuckDBPyConnection, now: datetime) -> History:
        """The runs that are known of each step."""
        names = ", ".join(identifier(field.name) for field in fields(StepTelemetry))
        select = Table(self.home.warehouse, STEP_TELEMETRY).snapshot().select()
        since = (now - HISTORY).date()
        rows = con.execute(f"select {names} from ({select}) where date >= ?", [since])
        return history([StepTelemetry(*row) for row in rows.fetchall()], self.machine_mb * 1_000_000, now)

    def keep_features(self, con: duckdb.DuckDBPyConnection, now: datetime) -> int:
        """Write what was known of each run as it began, and what came of it; returns how many runs."""
        with self.home.lock(STEPS_LOCK):
            rows = features(self.history(con, now).runs, now)
            if rows:
                write(con, self.home, STEP_FEATURES, [astuple(row) for row in rows])
        return len(rows)

    def standings(self, con: duckdb.DuckDBPyConnection) -> dict[str, Standing]:
        """How each step stands, by its name."""
        return standings_of(read(con, self.home, RESOURCE_CONFIGS))

    def decisions(self, con: duckdb.DuckDBPyConnection) -> list[Decision]:
        """Every decision, oldest first."""
        return [Decision(*row) for row in read(con, self.home, TUNING_DECISIONS)]

    def model(self) -> InUse:
        return in_use(self.home)

    def look(self, con: duckdb.DuckDBPyConnection, now: datetime, frozen: Callable[[], str | None] = lambda: None) -> Looked:
        """Decide about every step, keep that, and put it in force. `frozen` says why no change may be made now."""
        # Here and not above: it brings a library for numbers.
        from analytics_assets.tuning.timeouts import timeouts

        with self.home.lock(STEPS_LOCK):
            found, model, stood = self.history(con, now), self.model(), self.standings(con)
            of_steps = timeouts(found.runs, self.rules.timeouts)
            settled = []
            for step in sorted({*found.runs, *stood}):
                before = stood.get(step) or first_standing(step, found.assets.get(step, "[]"), self.preset)
                before = replace(before, assets=found.assets.get(step, before.assets))
                known = replace(self._known(step, found, model, frozen), timeouts=of_steps.get(step, {}))
                settled.append(settle(before, known, self.rules, now))
            return self._keep(con, settled, stood, found, model, now)

    def retrain(self, con: duckdb.DuckDBPyConnection, now: datetime) -> Retrained:
        """Learn anew, and promote that if it is better for any step than what is in use."""
        # Here and not above: it brings libraries for numbers, which no other look needs.
        from analytics_assets.tuning.learn import learned

        with self.home.lock(STEPS_LOCK):
            found, before = self.history(con, now), self.model()
            steps = before.model.steps if before.model else {}
            best = learned(found.runs, steps, self.preset, self.rules, self.most_mb, now)
            if _asked(best) == _asked(steps):
                return Retrained(None, before, found)
            return Retrained(promote(self.home, best, now), before, found)

    def go_back(self) -> Model | None:
        """Use the model that was in use before the present one; returns it, None for none. Raises UserError without one."""
        with self.home.lock(STEPS_LOCK):
            present = self.model()
            if present.model is None:
                raise UserError(
                    present.fault or "no model is in use: every step has what limits.yaml says, or what a person said"
                )
            use(self.home, present.model.before)
            return self.model().model

    def pin(
        self, con: duckdb.DuckDBPyConnection, step: str, override: Override, config: ResourceConfig | None, now: datetime
    ) -> Standing:
        """Follow the word of a person: a pin with its config, a veto without. Raises UserError for what no step can have."""
        if config is not None and config.memory_mb > self.most_mb:
            raise UserError(
                f"{config.memory_mb:,} MB are more than the {self.most_mb:,} MB that a step may have on this machine "
                f"(`memory` of {FILE}); name less"
            )

        def decide(before: Standing, known: Known) -> Settled:
            return overridden(before, known, override, now, config)

        return self._decide_one(con, step, decide, now)

    def release(self, con: duckdb.DuckDBPyConnection, step: str, reason: str, now: datetime) -> Standing:
        """Take back what a person said of a step. Raises UserError if nobody did."""

        def decide(before: Standing, known: Known) -> Settled:
            if before.source not in ("pin", "veto"):
                raise UserError(f"nobody pinned or vetoed {step}; it has the config of the {before.source}")
            return released(before, known, reason, now)

        return self._decide_one(con, step, decide, now)

    def step_of(self, con: duckdb.DuckDBPyConnection, name: str, now: datetime) -> str:
        """The step of that name, or the one that makes the asset of that name. Raises UserError if none is known."""
        assets = {**{step: row.assets for step, row in self.standings(con).items()}, **self.history(con, now).assets}
        found = [name] if name in assets else [step for step, made in sorted(assets.items()) if name in json.loads(made)]
        if not found:
            known = f"known are {', '.join(sorted(assets))}" if assets else "run `analytics telemetry collect` after a run"
            raise UserError(f"no step of the name {name} has run with DuckDB, and none that makes it; {known}")
        return found[0]

    def _decide_one(
        self, con: duckdb.DuckDBPyConnection, step: str, decide: Callable[[Standing, Known], Settled], now: datetime
    ) -> Standing:
        with self.home.lock(STEPS_LOCK):
            found, model, stood = self.history(con, now), self.model(), self.standings(con)
            before = stood.get(step) or first_standing(step, found.assets.get(step, "[]"), self.preset)
            one = decide(before, self._known(step, found, model, lambda: None))
            self._keep(con, [one], stood, found, model, now)
            return one.standing

    def _known(self, step: str, found: History, model: InUse, frozen: Callable[[], str | None]) -> Known:
        learned = model.model.steps.get(step) if model.model else None
        return Known(self.preset, found.runs.get(step, ()), learned, model.version, frozen)

    def _timeouts(self, settled: Sequence[Settled]) -> dict[str, Mapping[str, float]]:
        """The timeouts of all steps. Where nothing was decided now they stay as they are, also one that has acted."""
        known = dict(read_in_force(self.home).timeouts)
        for row in (one.standing for one in settled):
            own = {one.input_class: one.timeout_seconds for one in row.classes if one.timeout_seconds is not None}
            known.pop(row.step, None)
            known |= {row.step: own} if own else {}
        return known

    def _keep(
        self, con: duckdb.DuckDBPyConnection, settled: Sequence[Settled], stood: Mapping[str, Standing], found: History,
        model: InUse, now: datetime,
    ) -> Looked:  # fmt: skip
        new = {**stood, **{one.standing.step: one.standing for one in settled}}
        standings = tuple(new[step] for step in sorted(new))
        decided = tuple(row for one in settled for row in one.decisions)
        kept = [_with_effect(row, settled, stood, now) for row in self.decisions(con)]
        # First: a change that no decision tells of would be in force without a reason.
        if decided or any(one.measured for one in settled):
            write(con, self.home, TUNING_DECISIONS, [astuple(row) for row in (*kept, *decided)])
        if standings:
            write(con, self.home, RESOURCE_CONFIGS, [values for row in standings for values in rows_of(row)])
        configs = {row.step: config for row in standings if (config := config_of(row)) is not None}
        write_in_force(self.home, configs, self._timeouts(settled))
        return Looked(standings, decided, found.set_aside, model.fault)


def _memory(said: Learned) -> str:
    """The memory of the first attempt, in words."""
    sizes = sorted({said.requests_mb[0], *(one.requests_mb[0] for one in said.classes.values())})
    return f"{sizes[0]:,} MB" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,} MB by its input"


def _asked(steps: Mapping[str, Learned]) -> dict[str, Any]:
    """All that a model asks for."""
    return {
        step: (one.requests_mb, {name: of_class.requests_mb for name, of_class in one.classes.items()})
        for step, one in steps.items()
    }


def _with_effect(row: Decision, settled: Sequence[Settled], stood: Mapping[str, Standing], now: datetime) -> Decision:
    """The decision with what was found out about it, if it is the one whose config was in force until now."""
    for one in settled:
        before = stood.get(one.standing.step)
        if (
            one.measured
            and before
            and (row.step, row.decided_at) == (before.step, before.since)
            and row.kind in ("change", "pin")
        ):
            found = one.measured
            return replace(
                row, effect=found.verdict, effect_at=now, effect_reasons="; ".join(found.reasons), effect_before=found.before,
                effect_runs=found.after, effect_saving=found.saving, effect_lower=found.lower, effect_upper=found.upper,
            )  # fmt: skip
    return row
