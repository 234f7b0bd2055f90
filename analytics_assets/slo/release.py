"""The release gate: whether promotions and rollouts may go on. Publishing data never asks it: they must go on flowing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from analytics_assets.freshness.judge import moment

# Who it is that freezes when a budget is spent, and opens when it has recovered.
BUDGET = "error budget"


@dataclass(frozen=True)
class GateChange:
    """A row of `release_gate`."""

    state: str
    since: datetime
    until: datetime | None
    reason: str
    by: str

    @property
    def said(self) -> str:
        """The state, in a sentence."""
        if self.state == "open":
            return f"releases are open since {moment(self.since)} ({self.by}: {self.reason})"
        cure = "a budget that recovers, or `analytics gate release`," if self.by == BUDGET else "`analytics gate release`"
        return f"releases are frozen since {moment(self.since)} ({self.by}: {self.reason}); {cure} opens them"


def settled(changes: Sequence[GateChange], frozen_by: Sequence[str], now: datetime) -> GateChange | None:
    """The change that spent budgets ask for, if any. What a person froze, only a person opens."""
    present = changes[-1] if changes else None
    if frozen_by and (present is None or present.state == "open"):
        more = f"; and {len(frozen_by) - 1} more" if len(frozen_by) > 1 else ""
        return GateChange("frozen", now, None, frozen_by[0] + more, BUDGET)
    if not frozen_by and present is not None and present.state == "frozen" and present.by == BUDGET:
        return GateChange("open", now, None, "the budget has recovered", BUDGET)
    return None
