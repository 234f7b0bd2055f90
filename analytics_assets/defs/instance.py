"""Dagster's instance of a data home: where its runs, events and schedules are kept."""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from analytics_assets.settings import PROJECT, Settings
from analytics_assets.warehouse.home import Home, replace_file

if TYPE_CHECKING:
    import dagster as dg


# Sections of the project's `dagster.yaml` that data homes got later.
_LATER = ("python_logs",)


def configure(folder: Path) -> Path:
    """Put the project's `dagster.yaml` into `folder`, or what one that is older lacks into that; returns `folder`.

    A section that stands there, also an empty one, stays as it is.
    """
    target, ours = folder / "dagster.yaml", PROJECT / "dagster.yaml"
    if not target.exists():
        shutil.copyfile(ours, target)
        return folder
    text = target.read_text(encoding="utf-8")
    missing = [name for name in _LATER if not re.search(rf"^{name}\s*:", text, re.MULTILINE)]
    if missing:
        sections = _sections(ours.read_text(encoding="utf-8"))
        whole = "\n\n".join([text.rstrip(), *(sections[name] for name in missing)]) + "\n"
        if _is_whole(whole, missing):
            # Several processes may do the same at once: each puts a whole file in place.
            new = folder / f"dagster.yaml.{os.getpid()}"
            new.write_text(whole, encoding="utf-8")
            shutil.copymode(target, new)
            replace_file(new, target)
    return folder


def _is_whole(text: str, names: Sequence[str]) -> bool:
    """Whether it is YAML with these sections: what a person wrote in another form cannot be added to."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    return isinstance(content, dict) and content.keys() >= set(names)


def _sections(text: str) -> dict[str, str]:
    """By their names the top level sections of a YAML file, with the comments above each; blank lines part them."""
    parts = [part.strip("\n") for part in re.split(r"\n\s*\n", text)]
    named = ((re.search(r"^(\w+):", part, re.MULTILINE), part) for part in parts)
    return {found[1]: part for found, part in named if found}


# Held by the resident worker as long as it lives.
WORKER_LOCK = "worker"


def worker_is_here(home: Home) -> bool:
    """Whether a resident worker serves this data home, so that sensors leave its work to it."""
    return home.in_use(WORKER_LOCK)


# Runs inside a command carry its process id: nobody else would notice that they died.
PROCESS_TAG = "analytics/process"
GOING = ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")


def end_dead_runs(instance: "dg.DagsterInstance") -> None:
    """Mark runs as failed whose command was killed; what they had committed stands, and the next run goes on from it."""
    import dagster as dg

    going = dg.RunsFilter(statuses=[dg.DagsterRunStatus[name] for name in GOING])
    for run in instance.get_runs(going):
        process = run.tags.get(PROCESS_TAG)
        if process and not _alive(int(process)):
            instance.report_run_failed(run, f"process {process} is gone")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def open_instance(settings: Settings) -> "dg.DagsterInstance":
    """The instance that the UI of this data home shows."""
    import dagster as dg

    os.environ["DAGSTER_HOME"] = str(configure(Home(settings.home).dagster))
    instance = dg.DagsterInstance.get()
    end_dead_runs(instance)
    return instance
