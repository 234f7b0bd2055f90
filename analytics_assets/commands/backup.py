"""`analytics backup` takes a copy of the data home; `analytics drill` proves that it can be restored."""

from dataclasses import asdict

import click

from analytics_assets.commands.common import DONE, FAILED, audit_log, echo_json, json_option, pipeline, settings
from analytics_assets.console import counted, say


@click.command()
@json_option
def backup(as_json: bool) -> int:
    """Copy the data home into a new folder below ANALYTICS_BACKUPS.

    Nothing is loaded or published meanwhile. Then the oldest backups of this data home go, beyond those that limits.yaml keeps;
    give one another name to keep it. Keys are not copied: keep a copy of their folder elsewhere. To restore, copy `home/` of
    the backup to where the data home was, and run `analytics publish`.
    """
    from analytics_assets.backups import back_up, forget_old
    from analytics_assets.events.intake import utc_now

    stages = pipeline()
    with audit_log().act("backup") as act:
        taken = back_up(stages, utc_now())
        act.details["backup"] = taken.path.name
        if removed := forget_old(stages, taken):
            act.details["removed"] = removed
    size = sum(file.stat().st_size for file in taken.path.rglob("*") if file.is_file())
    if as_json:
        told = {"path": taken.path, "taken_at": taken.taken_at, "files": len(taken.files), "bytes": size, "removed": removed}
        echo_json(told)
    else:
        say(f"{taken.path}: {counted(len(taken.tables), 'table')}, {counted(len(taken.files), 'file')}, {size / 1e6:,.1f} MB")
        if removed:
            say(f"{counted(len(removed), 'older backup')} removed: {', '.join(removed)} (limits.yaml: storage.keep_backups)")
        say(f"keys are not in it: keep a copy of {settings().keys} elsewhere")
    return DONE


@click.command()
@json_option
def drill(as_json: bool) -> int:
    """Restore the newest backup beside it and publish it there, to see that it can be done and how long it takes.

    Compares every table with what was backed up, and does the erasures again that came later. Nothing else changes, and the
    copy is removed. Exits with 1 if readers would not have got a version.
    """
    from analytics_assets.backups import drill as restore
    from analytics_assets.events.intake import utc_now

    with audit_log().act("restore_drill") as act:
        found = restore(settings(), utc_now(), lambda text: say(text, err=True))
        act.outcome, act.details = "failed" if found.fault else "done", {"backup": found.backup, **found.numbers}
    if as_json:
        echo_json(asdict(found))
    else:
        say(found.told)
    return FAILED if found.fault else DONE
