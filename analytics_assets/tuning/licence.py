"""Whether tuning may observe, advise or act on a step, and why: a pure function of what is declared and what is known.

Every rule that speaks against something is named, and what is not known is no permission. A person's word wins: where
somebody pinned or vetoed, nothing is done until it ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from analytics_assets.tuning.rules import LicenceRules, Mode

WEEK = timedelta(days=7)


@dataclass(frozen=True)
class Override:
    """What a person said of a step: `pin` gives it a config, `veto` leaves it its preset. Until when, in UTC.

    Who it was stands in the audit log.
    """

    kind: Literal["pin", "veto"]
    reason: str
    until: datetime

    def holds(self, now: datetime) -> bool:
        return now < self.until

    @property
    def said(self) -> str:
        """In a sentence."""
        did = "pinned" if self.kind == "pin" else "vetoed"
        return f"a person {did} it until {self.until:%Y-%m-%d %H:%M} UTC: {self.reason}"


@dataclass(frozen=True)
class Evidence:
    """What is known of a step. None: nobody has looked, which permits nothing.

    `weeks` are those of telemetry, `baseline_runs` the runs that a stored baseline stands on; `won` says whether the model's
    config was better than the preset in the back-test; `active` names a change whose effect is still being measured;
    `taken_back` names advice that was applied before and made something worse; `frozen` is why nothing may be changed at all.
    """

    weeks: int | None = None
    baseline_runs: int | None = None
    won: bool | None = None
    active: str | None = None
    taken_back: str | None = None
    frozen: str | None = None
    override: Override | None = None


@dataclass(frozen=True)
class Licence:
    """The most that tuning may do with a step now, and every reason why it is not more, or why it is."""

    mode: Mode
    reasons: tuple[str, ...]


def licence(declared: Mode, evidence: Evidence, rules: LicenceRules, now: datetime) -> Licence:
    """What may be done now. `declared` is the most that a person allowed."""
    if declared == "observe":
        return Licence("observe", ("tuning.yaml only observes it",))
    weeks = evidence.weeks or 0
    if weeks < rules.advise_weeks:
        return Licence("observe", (f"{_weeks(weeks)} of telemetry, and advice needs {rules.advise_weeks}",))
    against = list(_against_acting(evidence, rules, now))
    if declared == "advise":
        against.insert(0, "tuning.yaml only advises it")
    if against:
        return Licence("advise", tuple(against))
    return Licence("act", (f"{_weeks(weeks)} of telemetry, a baseline of {evidence.baseline_runs} runs, a won back-test",))


def _against_acting(evidence: Evidence, rules: LicenceRules, now: datetime) -> Sequence[str]:
    weeks, runs = evidence.weeks or 0, evidence.baseline_runs or 0
    found = []
    if evidence.override is not None and evidence.override.holds(now):
        found.append(evidence.override.said)
    if weeks < rules.act_weeks:
        found.append(f"{_weeks(weeks)} of telemetry, and acting needs {rules.act_weeks}")
    if runs < rules.baseline_runs:
        stands = f"the stored baseline has {runs} of {rules.baseline_runs} runs" if runs else "no baseline was stored before"
        found.append(stands)
    if not evidence.won:
        found.append("no back-test yet" if evidence.won is None else "the preset won the back-test")
    if evidence.active is not None:
        found.append(f"one change at a time: {evidence.active}")
    found += [reason for reason in (evidence.taken_back, evidence.frozen) if reason is not None]
    return found


def weeks_known(began: Sequence[datetime], now: datetime) -> int:
    """Whole weeks, counted back from now without a gap, in each of which a run began, the first of them that long ago.

    Runs of a clock that was ahead count for nothing.
    """
    ages = [now - one for one in began if one <= now]
    seen = {age // WEEK for age in ages}
    weeks = 0
    while weeks in seen and weeks < max(ages) // WEEK:
        weeks += 1
    return weeks


def _weeks(count: int) -> str:
    return f"{count} {'week' if count == 1 else 'weeks'}"
