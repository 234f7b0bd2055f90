"""What every command uses: the data home, answers in JSON, exit codes."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from analytics_assets.audit.log import Audit
from analytics_assets.commands.guard import acting_in
from analytics_assets.settings import Settings

if TYPE_CHECKING:
    from analytics_assets.pipeline import Pipeline

DONE, FAILED, USAGE, REFUSED, SET_ASIDE = 0, 1, 2, 3, 4


def settings() -> Settings:
    return Settings.from_env()


def pipeline() -> "Pipeline":
    from analytics_assets.pipeline import Pipeline

    return Pipeline(settings())


def audit_log() -> Audit:
    """The log of who did what, for the command that runs."""
    return Audit(settings(), zones=acting_in())


def echo_json(value: object) -> None:
    click.echo(json.dumps(value, default=str, indent=2))


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")(command)
