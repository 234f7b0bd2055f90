"""What a request for memory costs with the attempts it causes: a killed attempt is paid, and the next one asks for more.

Memory is in any one unit, cost in that unit times the length of a run: 1 is a unit held for one run.
"""

from dataclasses import dataclass

import numpy as np

from analytics_assets.tuning.series import Numbers

# How the request grows after a kill: the declared preset, the most seen with a fifth more, or so many times the last.
LADDERS = ("preset", "most seen", "x 1.5", "x 2", "x 4")
FACTORS = {"x 1.5": 1.5, "x 2": 2.0, "x 4": 4.0}
# A rung that asks for hardly more than what was not enough is a wasted attempt.
LEAST_STEP, OVER_MOST = 1.1, 1.2
MOST_ATTEMPTS = 32


@dataclass(frozen=True)
class Known:
    """What the rungs of a ladder go by: the declared preset, the most seen by then (0: nothing), and what is never exceeded."""

    preset: float
    most: float
    ceiling: float


def climb(ladder: str, request: Numbers, known: Known) -> Numbers:
    """The next requests after these were killed."""
    if ladder in FACTORS:
        return np.minimum(request * FACTORS[ladder], known.ceiling)
    doubled = np.where(2 * request < known.preset, 2 * request, np.where(request < known.preset, known.preset, 2 * request))
    if ladder == "preset":
        return np.minimum(np.where(request < known.preset, known.preset, 2 * request), known.ceiling)
    near = request * LEAST_STEP < known.most * OVER_MOST
    return np.minimum(np.where(near, known.most * OVER_MOST, doubled), known.ceiling)


def rungs(first: float, ladder: str, known: Known) -> tuple[float, ...]:
    """The first request and those after each kill, each more than the last; the ceiling is the last."""
    asked = [min(first, known.ceiling)]
    while asked[-1] < known.ceiling and len(asked) < MOST_ATTEMPTS:
        asked.append(float(climb(ladder, np.array(asked[-1]), known)))
    return tuple(asked)


def paid(first: Numbers, peak: float, known: Known) -> tuple[Numbers, Numbers]:
    """Cost and killed attempts of each first request (rows) on each ladder (columns), for a run that needs `peak`.

    What needs more than the ceiling ends there, killed: no request helps it.
    """
    cost = np.zeros((len(first), len(LADDERS)))
    killed = np.zeros_like(cost)
    for column, ladder in enumerate(LADDERS):
        request = np.minimum(first, known.ceiling)
        running = np.ones(len(first), bool)
        for _ in range(MOST_ATTEMPTS):
            cost[:, column] += np.where(running, request, 0)
            short = running & (request < peak)
            killed[:, column] += short
            running = short & (request < known.ceiling)
            if not running.any():
                break
            request = np.where(running, climb(ladder, request, known), request)
    return cost, killed
