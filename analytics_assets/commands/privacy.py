"""`analytics privacy`: what every field is, which keys wait for a label, and the page that says both."""

import tempfile
from pathlib import Path

import click

from analytics_assets.commands.common import DONE, FAILED, echo_json, json_option, pipeline
from analytics_assets.console import say, show
from analytics_assets.settings import PROJECT


@click.group()
def privacy() -> None:
    """What every field is: labels, where they come from, which keys wait for one."""


@privacy.command()
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 if a file is not as it should be.")
def document(check: bool) -> int:
    """Find out where every column comes from, and write docs/taxonomy.md.

    Needed after a change of taxonomy.yaml or of the SQL that computes tables.
    """
    from analytics_assets.labelling import written

    with tempfile.TemporaryDirectory() as work:
        texts = written(pipeline().settings, pipeline().specs, Path(work))
    old = {path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text}
    for path in texts:
        name = path.relative_to(PROJECT)
        if path not in old:
            say(f"{name} is as it should be")
        elif check:
            say(f"{name} is out of date; run `analytics privacy document`", err=True)
        else:
            path.write_text(texts[path], encoding="utf-8")
            say(f"wrote {name}")
    return FAILED if check and old else DONE


@privacy.command()
@json_option
def waiting(as_json: bool) -> int:
    """List keys of properties that wait for a label, and are hidden from readers until then."""
    from analytics_assets.labelling import waiting_now

    stages = pipeline()
    with stages.connect() as con:
        found = waiting_now(con, stages.settings, stages.specs, stages.table)
    if as_json:
        echo_json([vars(one) for one in found])
    elif not found:
        click.echo("no key waits for a label")
    else:
        rows = [(one.key, one.tenant, one.event, f"{one.events:,}", one.first) for one in found]
        show(("key", "tenant", "event", "events", "first day (UTC)"), rows)
        say("label them in taxonomy.yaml under keys, properties, and the source that sends them; then run `analytics publish`")
    return DONE
