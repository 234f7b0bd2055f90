"""Who may use which command: a zone can do what it is declared to and nothing else; saying more about oneself only narrows."""

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.audit.log import Audit
from analytics_assets.audit.report import Told, Wanted, report
from analytics_assets.cli import cli
from analytics_assets.commands.guard import commands_of, confirm_permitted
from analytics_assets.privacy.zones import Acting, User, Zone, Zones, confirm, load_zones
from analytics_assets.settings import CONFIG, ConfigError, Denied, Settings, UserError
from analytics_assets_tests.builders import a_config

COMMANDS = dict(commands_of(cli))
LOOKING = {"status", "versions", "explain", "quality", "gate", "queue"}
# What each zone may do, and nothing else.
MATRIX = {
    "analyst": LOOKING | {"sql", "export"},
    "customer-admin": {"status", "explain", "export"},
    "ai-service": {"export"},
    "operator": set(COMMANDS),
}
ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A data home in which nothing is published."""
    monkeypatch.setenv("ANALYTICS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ANALYTICS_CONFIG", str(a_config(tmp_path / "config")))
    return Settings.from_env()


@pytest.fixture
def declare(home: Settings) -> Callable[..., None]:
    def change(**changes: Any) -> None:
        content = yaml.safe_load((CONFIG / "zones.yaml").read_text())
        (home.config / "zones.yaml").write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))

    return change


def called(command: str, *, zone: str | None = None, tenant: str | None = "acme") -> click.Context:
    """The context in which a command is called: `analytics --as ZONE COMMAND --tenant TENANT`."""
    context = click.Context(cli, info_name="analytics")
    context.params = {"as_zone": zone}
    step: click.Command = cli
    for word in command.split():
        assert isinstance(step, click.Group)
        step = step.commands[word]
        context = click.Context(step, info_name=word, parent=context)
    context.params = {"tenant": tenant}
    return context


def may(command: str, **how: Any) -> bool:
    try:
        confirm_permitted(called(command, **how))
    except Denied:
        return False
    return True


def denials(home: Settings) -> list[Told]:
    return report(Audit(home).chain, Wanted(outcome="denied"))


@pytest.mark.parametrize("zone", MATRIX)
def test_a_zone_can_do_what_it_may_and_nothing_else_and_every_denial_is_on_record(home: Settings, zone: str) -> None:
    assert {command for command in COMMANDS if may(command, zone=zone)} == MATRIX[zone]
    denied = denials(home)
    assert {act.details["command"] for act in denied} == set(COMMANDS) - MATRIX[zone]
    assert {(act.action, act.tenant, act.user, *act.zones) for act in denied} <= {("command", "acme", ME, zone)}


def test_every_declared_zone_is_in_the_matrix(home: Settings) -> None:
    assert load_zones(home.config / "zones.yaml", list(COMMANDS), list, list).zones.keys() == MATRIX.keys()


def test_who_is_nobody_in_particular_may_do_everything(home: Settings) -> None:
    assert all(may(command, tenant=None) for command in COMMANDS)


def test_a_zone_of_one_tenant_must_name_it(home: Settings) -> None:
    assert may("export", zone="customer-admin") and not may("export", zone="customer-admin", tenant=None)
    assert may("export", zone="analyst", tenant=None)


def test_a_zone_exports_for_its_roles_alone(home: Settings, declare: Callable[..., None]) -> None:
    narrow = {"purpose": "those who get reports", "commands": ["export"], "roles": []}
    declare(zones={"reader": narrow, "operator": {"purpose": "those who run it", "commands": "all"}})
    asked = ("export", "--role", "analyst", "--tenant", "acme", "--measure", "events", "--out", "out.csv")
    denied = run("--as", "reader", *asked)
    assert isinstance(denied.exception, Denied)
    assert str(denied.exception) == "zone 'reader' may not ask for role 'analyst'; it may ask for none"
    declare(zones={"reader": {**narrow, "roles": ["analyst"]}, "operator": {"purpose": "those who run it", "commands": "all"}})
    assert str(run("--as", "reader", *asked).exception).startswith("nothing is published yet")


def test_a_user_stays_in_the_zone_and_with_the_tenants_that_are_declared(
    home: Settings, declare: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(users={ME: {"zone": "analyst", "tenants": ["acme"]}})
    assert may("export") and may("export", zone="ai-service")
    assert not may("export", tenant="globex") and not may("export", tenant=None)
    # Whatever somebody says about oneself.
    for name in ("operator", "analyst"):
        monkeypatch.setenv("ANALYTICS_ROLE", name)
        assert not may("publish", zone="operator") and may("export", zone="operator")
    monkeypatch.setenv("ANALYTICS_ROLE", "ai-service")
    assert not may("sql", zone="operator") and may("export", zone="operator")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_a_denied_command_does_nothing_and_says_what_the_zone_may(home: Settings) -> None:
    done = run("--as", "analyst", "gate", "freeze", "--reason", "for a test")
    assert isinstance(done.exception, Denied)
    assert str(done.exception).startswith("zone 'analyst' may not use `analytics gate freeze`; it may use status, versions, ")
    assert run("--as", "analyst", "gate").stdout == "releases are open; the gate was never frozen\n"
    (act,) = denials(home)
    assert (act.details, act.zones, act.via) == ({"command": "gate freeze"}, ["analyst"], "cli gate freeze")
    assert "as analyst" in run("audit", "report").stdout


def test_what_is_done_within_a_zone_is_on_record_as_that(home: Settings) -> None:
    run("--as", "ai-service", "export", "--role", "analyst", "--tenant", "acme", "--measure", "events", "--out", "out.csv")
    run("gate", "freeze", "--reason", "for a test")
    assert [(act.action, act.zones) for act in report(Audit(home).chain, Wanted())] == [
        ("export", ["ai-service"]), ("freeze_gate", [])
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["analist", "jane@acme.test"])
def test_a_zone_that_there_is_not_may_do_nothing(home: Settings, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYTICS_ROLE", name)
    done = run("versions")
    assert isinstance(done.exception, UserError) and str(done.exception).startswith(f"there is no zone '{name}' in zones.yaml")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"everybody_else": "operators"}, "there is no zone 'operators'; did you mean 'operator'?"),
        ({"users": {"anna": {"zone": "boss"}}}, "there is no zone 'boss'; there are analyst, customer-admin, "),
        ({"users": {"anna": {"zone": "analyst", "tenants": ["hooli"]}}}, "there is no tenant 'hooli'; add it to tenants.yaml"),
        ({"zones": {"operator": {"purpose": "those who run it", "commands": ["pubish"]}}}, "did you mean 'publish'?"),
        (
            {"zones": {"operator": {"purpose": "those who run it", "commands": "all", "roles": ["analist"]}}},
            "there is no role 'analist' in roles.yaml; did you mean 'analyst'?",
        ),
        (
            {"zones": {"Boss": {"purpose": "those who run it", "commands": "all"}}},
            "'Boss' is no name of a zone; use at most 63",
        ),
        (
            {"zones": {"boss": {"purpose": "those who run it", "commands": "publish"}}},
            "zones.boss.commands: Input should be 'all', or Input should be a list, as [one, another]",
        ),
        (
            {"zones": {"boss": {"purpose": "those who run it", "commands": ["publish", 7]}}},
            "zones.boss.commands.1: Input should be",
        ),
        ({"zones": {"boss": "publish"}}, "zones.boss: Input should be names with their values, as `name: value`"),
        ({"zones": {"boss": {"purpose": "those who run it"}}}, "zones.boss.commands: Field required; add it"),
        ({"bosses": {}}, "bosses: Extra inputs are not permitted; correct its name, or remove it"),
    ],
)
def test_a_wrong_declaration_stops_every_command_with_its_line(
    home: Settings, declare: Callable[..., None], change: dict[str, Any], sentence: str
) -> None:
    declare(**change)
    with pytest.raises(ConfigError, match=r"^zones\.yaml:\d+: ") as wrong:
        confirm_permitted(called("versions"))
    assert sentence in str(wrong.value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{operator}: 1", "a name is a text; put it in quotes"),
        ("\tusers: {}", "this is no YAML, so mend the line's spaces, quotes or brackets"),
        ("users: {}\nusers: {}", "'users' is declared twice; keep one"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_line_and_what_to_do(home: Settings, line: str, sentence: str) -> None:
    (home.config / "zones.yaml").write_text(f"everybody_else: operator\n{line}\n")
    with pytest.raises(ConfigError, match=r"^zones\.yaml:[23]: ") as wrong:
        confirm_permitted(called("versions"))
    assert sentence in str(wrong.value)


def test_a_fault_in_another_declaration_holds_up_no_command_that_does_not_need_it(home: Settings) -> None:
    (home.config / "tenants.yaml").write_text("tenants: nonsense")
    assert str(run("versions").exception).startswith("nothing is published yet")


_SOME = ("publish", "export", "sql")


@st.composite
def declared(draw: st.DrawFn) -> Zones:
    commands = st.one_of(st.just("all"), st.lists(st.sampled_from(_SOME), unique=True).map(tuple))
    zone = st.builds(Zone, purpose=st.just("made for a test"), commands=commands, one_tenant=st.booleans())
    zones = {name: draw(zone) for name in ("a", "b", "c")}
    tenants = st.one_of(st.just("all"), st.sets(st.sampled_from(["acme", "globex"])).map(tuple))
    user = st.builds(User, zone=st.sampled_from(["a", "b", "c"]), tenants=tenants)
    return Zones(zones=zones, users={"anna": draw(user)}, everybody_else="b")


@given(
    declared(), st.sampled_from(["anna", "ben"]), st.lists(st.sampled_from(["a", "b", "c"]), max_size=3).map(tuple),
    st.sampled_from(["a", "b", "c"]), st.sampled_from(_SOME), st.sampled_from([None, "acme", "globex"]),
)  # fmt: skip
def test_to_name_one_zone_more_never_allows_more(
    zones: Zones, user: str, narrowed: tuple[str, ...], more: str, command: str, tenant: str | None
) -> None:
    def allowed(*names: str) -> bool:
        try:
            confirm(zones, Acting(user, names), command, tenant)
        except Denied:
            return False
        return True

    assert not allowed(*narrowed, more) or allowed(*narrowed)
    # And all of them must allow it, in whatever order.
    own = zones.users[user].zone if user in zones.users else "b"
    whose = zones.users[user].tenants if user in zones.users else "all"
    expected = all(
        (zones.zones[name].commands == "all" or command in zones.zones[name].commands)
        and not (zones.zones[name].one_tenant and tenant is None)
        for name in (own, *narrowed)
    ) and (whose == "all" or tenant in whose)
    assert allowed(*narrowed) == allowed(*reversed(narrowed)) == expected
