"""Before a command runs: whether the zone of whoever asks may use it. What is denied is recorded."""

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import click

from analytics_assets.audit.log import Audit, users
from analytics_assets.settings import Denied, Settings

AS, ENVIRONMENT = "as_zone", "ANALYTICS_ROLE"


def guard(root: click.Group) -> None:
    """Put the question before every command of a group, and of the groups within."""
    for _, command in commands_of(root):
        if command.callback is not None:
            command.callback = _asking(command.callback)


def commands_of(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """The words by which a command is called, and the command; a group that does something by itself is one too."""
    for name, command in group.commands.items():
        words = f"{above} {name}".strip()
        if isinstance(command, click.Group):
            yield from commands_of(command, words)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield words, command


def _asking(callback: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(callback)
    def asked(*arguments: Any, **options: Any) -> Any:
        context = click.get_current_context()
        # Of a group and a command within it, the command is asked about.
        if context.invoked_subcommand is None:
            confirm_permitted(context)
        return callback(*arguments, **options)

    return asked


def confirm_permitted(context: click.Context) -> None:
    """Raise Denied, and record it, if whoever asks may not use the command of this context."""
    from analytics_assets.privacy.roles import read_roles
    from analytics_assets.privacy.zones import Acting, confirm, load_zones

    root, settings, user = context.find_root(), Settings.from_env(), users()["user"]
    assert isinstance(root.command, click.Group)
    known = [words for words, _ in commands_of(root.command)]
    zones = load_zones(
        settings.config / "zones.yaml", known, lambda: settings.tenants,
        lambda: read_roles(settings.config / "roles.yaml").roles,
    )  # fmt: skip
    narrowed = tuple(name for name in (os.environ.get(ENVIRONMENT), root.params.get(AS)) if name)
    acting, command, tenant = Acting(user, narrowed), _words(context), context.params.get("tenant")
    # One that may do everything limits nobody.
    within = tuple(name for name in acting.within(zones) if zones.zones[name].commands != "all")
    root.obj = {**(root.obj or {}), "zones": within}
    try:
        confirm(zones, acting, command, tenant, context.params.get("role"))
    except Denied:
        Audit(settings, zones=within).record("command", "denied", tenant=tenant, details={"command": command})
        raise


def _words(context: click.Context) -> str:
    words: list[str] = []
    step: click.Context | None = context
    while step is not None and step.parent is not None:
        words.insert(0, step.info_name or "")
        step = step.parent
    return " ".join(words)


def acting_in() -> tuple[str, ...]:
    """The zones that limit whoever called the command that runs; none outside of a command."""
    context = click.get_current_context(silent=True)
    found: tuple[str, ...] = ((context.find_root().obj or {}) if context else {}).get("zones", ())
    return found
