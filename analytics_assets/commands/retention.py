"""What `analytics privacy retention` does and shows: limits, what is past them, what went."""

from dataclasses import asdict

from analytics_assets.commands.common import DONE, FAILED, REFUSED, audit_log, echo_json, pipeline
from analytics_assets.console import counted, say, show
from analytics_assets.events.intake import utc_now
from analytics_assets.expiry import look, old_files, retain


def show_limits(as_json: bool) -> int:
    """Every class and what of it would go now; nothing changes."""
    stages, now = pipeline(), utc_now()
    with stages.connect() as con:
        found = look(stages, con, now, ahead=True)
        files = len(old_files(stages, con, now, ahead=True))
    if as_json:
        echo_json({"classes": [{**asdict(one), "limit": one.limit.model_dump()} for one in found], "files": files})
        return DONE
    own = {one.retention for one in found if one.tenant}
    rows = [
        (
            one.retention, one.tenant or ("all others" if one.retention in own else "all"),
            "none" if one.limit.days is None else counted(one.limit.days, "day"),
            None if one.limit.days is None else one.limit.then, one.oldest, f"{one.past:,}",
        )
        for one in found
    ]  # fmt: skip
    show(("class", "tenant", "limit", "then", "oldest row (UTC)", "would go"), rows)
    if files:
        say(f"{counted(files, 'received file')} would go too")
    if all(one.limit.days is None for one in found):
        say("nothing has a limit; retention.yaml declares them")
    return DONE


def take_out(as_json: bool) -> int:
    """One pass, as the night makes it."""
    stages, log = pipeline(), audit_log()
    with log.act("retain") as act, stages.connect() as con:
        taken = retain(stages, con, utc_now(), lambda text: say(text, err=True), log)
        swept = stages.sweep(con) if taken else (0, 0)
        act.outcome = "done" if taken else "unchanged"
        if taken:
            act.tables, act.details = sorted({*taken.dropped, *taken.anonymised}), {**taken.numbers}
    if as_json:
        echo_json(None if taken is None else {**asdict(taken), "swept_files": swept[0]})
    elif taken is None:
        say("nothing has a limit; retention.yaml declares them")
    else:
        rows = [
            (name, f"{taken.dropped.get(name, 0):,}", f"{taken.anonymised.get(name, 0):,}")
            for name in dict.fromkeys([*taken.dropped, *taken.anonymised])
        ]
        if rows:
            show(("table", "rows dropped", "rows anonymised"), rows)
        for line in taken.told:
            say(line)
    if taken and taken.not_published:
        return REFUSED
    return FAILED if taken and taken.not_made else DONE
