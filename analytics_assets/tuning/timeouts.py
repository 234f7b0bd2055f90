"""After what time an attempt of a step is ended: far over what runs with an input of that class take. Pure.

Only of a class of which enough is known; of what never came before nobody knows how long it takes, and it has no timeout. What
a timeout ended would have taken longer, nobody knows how long: it at least doubles the next.
"""

from collections.abc import Mapping, Sequence

from analytics_assets.tuning.bounds import Bounds
from analytics_assets.tuning.history import StepRun, class_of
from analytics_assets.tuning.rules import TimeoutRules

LEVEL = 0.95
# Of the newest runs so many have to be within; one that is not shows that the timeout would be wrong.
CHECKED = 10
_AGAIN = 2.0


def timeouts(runs: Mapping[str, Sequence[StepRun]], rules: TimeoutRules) -> dict[str, dict[str, float]]:
    """Seconds by step and class of input. Whole runs are taken, with the time that they waited: it errs to the safe side."""
    bounds = Bounds(LEVEL)
    by_class: dict[tuple[str, str], list[StepRun]] = {}
    order = sorted(((step, run) for step, known in runs.items() for run in known), key=lambda one: (one[1].ended, one[0]))
    for step, run in order:
        if (name := class_of(run)) is None or (run.failed and run.outcome != "timeout"):
            continue
        key = (step, name)
        by_class.setdefault(key, []).append(run)
        if not run.failed:
            bounds.learn(key, max(run.seconds, 0.5), bounds.bound(key))
    found: dict[str, dict[str, float]] = {}
    for (step, name), known in by_class.items():
        bound = bounds.bound((step, name))
        if bound is None or sum(not run.failed for run in known) < rules.least_runs:
            continue
        ended = max((run.seconds for run in known if run.failed), default=0.0)
        seconds = max(bound.value * rules.margin, rules.least_minutes * 60, ended * _AGAIN)
        if all(run.seconds < seconds for run in known[-CHECKED:]):
            found.setdefault(step, {})[name] = float(round(seconds))
    return found
