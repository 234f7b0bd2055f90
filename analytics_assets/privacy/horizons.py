"""How far back rows went for good, by table and tenant, as a file of the data home: what goes by it stays gone.

Limits may be changed, and rows that went do not come back by that: a day whose events are gone must not be built again from
nothing. So it is noted before rows go, and the days in it only ever move on.
"""

import json
from collections.abc import Mapping
from datetime import date

from analytics_assets.privacy.retention import Cutoffs
from analytics_assets.settings import UserError
from analytics_assets.warehouse.home import Home, replace_file

# The table by which it is told which events are still anybody's: their sessions are gone, they themselves may be anonymised.
PEOPLE = "sessions"


class Horizons:
    """What a data home notes. Callers that note hold the lock of intake."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def of(self, table: str) -> Cutoffs:
        """The first day by tenant of which rows of a table may be there."""
        return Cutoffs(None, {tenant: date.fromisoformat(day) for tenant, day in self._read().get(table, {}).items()})

    @property
    def people(self) -> Cutoffs:
        """The first day by tenant of which events may be built into anything."""
        return self.of(PEOPLE)

    def lives(self, time: str) -> str:
        """SQL: whether an event, or what is computed from events of a day, is not past these days."""
        return f"not {self.people.past(time)}"

    def note(self, gone: Mapping[str, Cutoffs]) -> None:
        """Note, by table, before which days rows go."""
        before = self._read()
        after = {name: _days(self.of(name).later(gone.get(name, Cutoffs()))) for name in sorted({*before, *gone})}
        if after != before:
            path = self._home.privacy / "aged_out.json"
            new = path.with_suffix(".new")
            new.write_text(json.dumps(after, indent=1, sort_keys=True), encoding="utf-8")
            replace_file(new, path)

    def _read(self) -> dict[str, dict[str, str]]:
        path = self._home.privacy / "aged_out.json"
        try:
            found: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            raise UserError(f"{path} is damaged; put its backup back") from None
        return found


def _days(cutoffs: Cutoffs) -> dict[str, str]:
    return {tenant: day.isoformat() for tenant, day in cutoffs.own.items() if day is not None}
