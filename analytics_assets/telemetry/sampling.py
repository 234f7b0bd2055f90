"""How often DuckDB profiles the statements of a step: as often as costs no more than a two-hundredth of what the step takes.

A profile costs about as much for a small statement as for a large one. A step of large ones always has one, a step of many
small ones in some of its runs; everything else is measured of every step.
"""

import hashlib
import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analytics_assets.telemetry.amounts import sound

# What DuckDB takes to profile a statement, and to log that: measured by `python -m benchmarks telemetry`.
STATEMENT_SECONDS = 0.0004
# Beside it stands what measuring takes itself: up to 1.2 % of a step of a third of a second, on a machine that is too busy.
SHARE = 0.005
_RAREST = 100


@dataclass(frozen=True)
class Known:
    """Of a step: what its last run took, in processor seconds, and how many statements its last profile counted."""

    cpu_seconds: float
    queries: int


def one_in(known: Known | None) -> int:
    """Of so many runs one has a profile; 1 for a step of which nothing is known yet."""
    if known is None or known.queries == 0:
        return 1
    allowed = known.cpu_seconds * SHARE
    return _RAREST if allowed <= 0 else min(_RAREST, max(1, math.ceil(known.queries * STATEMENT_SECONDS / allowed)))


def chosen(known: Known | None, run_id: str, step: str) -> bool:
    """Whether this run has a profile of the step: drawn from its id, so that no rhythm of runs meets always the same ones."""
    drawn = hashlib.blake2b(f"{run_id}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "big") % one_in(known) == 0


def is_news(known: Known, before: Known | None) -> bool:
    """Whether a profile is due clearly more or less often than by what was known before: no two runs take quite the same."""
    return before is None or not 0.8 <= one_in(known) / one_in(before) <= 1.25


def known_of(path: Path, step: str) -> Known | None:
    """What `note` kept of a step. None where there is nothing that can be read."""
    found = _read(path).get(step)
    try:
        known = Known(float(found["cpu_seconds"]), int(found["queries"])) if found else None
        return known if known and sound((known.cpu_seconds, known.queries)) else None
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def note(path: Path, step: str, known: Known) -> None:
    """Keep what a step took. Of two processes at once the last one stays, which costs a profile too many or too few."""
    whole = {**_read(path), step: vars(known)}
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_text(json.dumps(whole), encoding="utf-8")
    new.replace(path)


def _read(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}
