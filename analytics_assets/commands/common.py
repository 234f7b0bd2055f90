"""What every command uses: the data home, answers in JSON, exit codes."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from analytics_assets.audit.log import Act, Audit, command, utc_now
from analytics_assets.commands.guard import acting_in
from analytics_assets.settings import Settings

if TYPE_CHECKING:
    from analytics_assets.pipeline import Pipeline
    from analytics_assets.telemetry.queries import Asked

DONE, FAILED, USAGE, REFUSED, SET_ASIDE = 0, 1, 2, 3, 4


def settings() -> Settings:
    return Settings.from_env()


def pipeline() -> "Pipeline":
    from analytics_assets.pipeline import Pipeline

    return Pipeline(settings())


def audit_log() -> Audit:
    """The log of who did what, for the command that runs."""
    return Audit(settings(), zones=acting_in())


@contextmanager
def asking(
    words: str, act: Act, *, version: int, tables: Sequence[str], role: str | None = None
) -> "Iterator[Asked]":  # fmt: skip
    """Around a query of the published file, which is recorded as `act`: what it takes goes to the query log."""
    from analytics_assets.telemetry import queries
    from analytics_assets.warehouse.home import Home

    whose = ", ".join(acting_in()) or role
    with queries.asking(
        Home(settings().home), utc_now(), command(), words, role=whose, audit_entry=act.entry, version=version, tables=tables
    ) as asked:
        yield asked


def echo_json(value: object) -> None:
    click.echo(json.dumps(value, default=str, indent=2))


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")(command)
