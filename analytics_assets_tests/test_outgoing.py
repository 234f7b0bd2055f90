"""What leaves the house of a real data home: answers of the published version, and files for roles that hold nothing else."""

import hashlib
import json
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from click.testing import CliRunner, Result

from analytics_assets.audit.log import Audit
from analytics_assets.audit.report import Told, Wanted, report
from analytics_assets.cli import cli
from analytics_assets.outgoing import RoleFilesFailed, declared_roles, egress, keep_role_files
from analytics_assets.privacy import role_files
from analytics_assets.privacy.egress import Request
from analytics_assets.settings import ConfigError, UserError
from analytics_assets.warehouse import publish as publishing
from analytics_assets.warehouse.publish import current_version, rollback
from analytics_assets_tests.builders import CONFIG, NOON, NOW, Line, Opener, a_config, an_event, at, rows_of
from analytics_assets_tests.conftest import made_once

TENANTS = ("acme", "globex")
OWNED = ["events", "sessions", "batches"]
OWNER = {
    "purpose": "what the owner of a shop sees",
    "tenants": ["acme"],
    "measures": ["people_per_group", "events", "revenue"],
    "dimensions": ["month", "event", "region"],
    "tables": OWNED,
    "labels": ["operational", "behavioural", "quasi_identifier", "identifier", "restricted"],
    "people": True,
    "file": True,
}


def canaries(tenant: str) -> dict[str, str]:
    """A word for each text that a sender fills, which nobody else has."""
    rng = random.Random(tenant)
    names = ("event", "user_id", "anonymous_id", "campaign", "region", "product_id", "page_url", "page_title", "order_id",
             "price", "ip")  # fmt: skip
    return {name: f"{tenant}-{name}-{rng.getrandbits(64):016x}" for name in names}


def events_of(tenant: str, count: int) -> list[dict[str, Any]]:
    """Events of 12 people, each text a canary of the tenant."""
    word = canaries(tenant)
    return [
        an_event(
            f"{word['event']}-{n}", tenant_id=tenant, event=word["event"], user_id=f"{word['user_id']}-{n % 12}",
            anonymous_id=f"{word['anonymous_id']}-{n % 12}", timestamp=at(n % 600), campaign=word["campaign"],
            region=word["region"], product_id=word["product_id"], page_url=word["page_url"], page_title=word["page_title"],
            order_id=word["order_id"], revenue="2.50", currency="EUR", properties={"price": word["price"]},
            context={"ip": word["ip"]},
        )
        for n in range(count)
    ]  # fmt: skip


def mixed(count: int) -> list[Any]:
    """Events of both tenants in turns, and records of both that are rejected."""
    turns = [event for pair in zip(*(events_of(tenant, count) for tenant in TENANTS), strict=True) for event in pair]
    return [*turns, *({**turns[n], "message_id": f"{turns[n]['event']}-broken", "type": "dance"} for n in range(2))]


def phones(tenant: str) -> list[dict[str, Any]]:
    """Ann on six phones, on which she was logged in once."""
    seen = [an_event(f"ann-{n}", tenant_id=tenant, anonymous_id=f"phone-{n}", user_id="ann") for n in range(6)]
    return [*seen, *({**event, "message_id": f"{event['message_id']}-later", "user_id": None} for event in seen)]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two versions of the same events, and no role that has a file. They came in one file.

    Version 1 has copied tables, version 2 views, two days later. Ann has six phones: she is all of hooli's people, and one of
    initech's five. Some of acme's events are of the day before version 1.
    """

    def make(folder: Path) -> None:
        with Line.at(folder / "home", a_config(folder / "config", tenants=(*TENANTS, "hooli", "initech"))) as line:
            late = [{**event, "message_id": f"{event['message_id']}-late", "timestamp": NOW - timedelta(days=1)}
                    for event in events_of("acme", 12)]  # fmt: skip
            others = [an_event(f"o{n}", tenant_id="initech", user_id=f"u{n}", anonymous_id=None) for n in range(4)]
            line.load([*mixed(1500), *late, *others, *phones("hooli"), *phones("initech")])
            line.rebuild()
            line.publish()
            line.pipeline.rebuild_users(line.con)
            line.now += timedelta(days=2)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(publishing, "INLINE_ROWS", 0)
                line.publish()

    return made_once(tmp_path_factory, "outgoing", make)


@pytest.fixture
def line(published: Path, tmp_path: Path) -> Iterator[Line]:
    shutil.copytree(published, tmp_path / "copy")
    with Line.at(tmp_path / "copy" / "home", tmp_path / "copy" / "config") as line:
        yield line


def declare(line: Line, **roles: Any) -> None:
    path = line.pipeline.settings.config / "roles.yaml"
    content = yaml.safe_load((CONFIG / "roles.yaml").read_text())
    path.write_text(yaml.safe_dump({**content, "roles": roles}, sort_keys=False))


def keep(line: Line) -> role_files.Kept:
    return keep_role_files(line.pipeline.settings, line.pipeline.specs, line.pipeline.table)


def file_of(line: Line, role: str = "owner", tenant: str = "acme") -> Path:
    return line.home / "published" / "roles" / role / f"{tenant}.duckdb"


def decoded(path: Path) -> str:
    """All that a reader gets out of a file: every value, name and comment."""
    with duckdb.connect(str(path), read_only=True) as con:
        tables = [name for (name,) in con.execute("select table_name from duckdb_tables()").fetchall()]
        found = [con.execute(f'from "{table}"').fetchall() for table in tables]
        about = con.execute("select comment, sql from duckdb_tables()").fetchall()
        return repr([found, about, con.execute("select column_name, comment from duckdb_columns()").fetchall()])


# Files for roles


def go_back(line: Line) -> None:
    rollback(line.pipeline.home, 1, now=NOW, reason="a test")


@pytest.mark.parametrize("version", [1, 2], ids=["from tables", "from views"])
def test_no_byte_of_another_tenant_is_in_a_file(line: Line, version: int) -> None:
    """Both tenants' rows lie in the same files, pages and dictionaries of what this is made from."""
    more = [*OWNED, "rejected_events", "users", "events_daily", "properties_daily", "quality_results", "freshness_status"]
    declare(line, owner={**OWNER, "tenants": TENANTS, "tables": more})
    if version == 1:
        go_back(line)
    assert keep(line).written == ("owner/acme", "owner/globex")
    for tenant, other in (TENANTS, TENANTS[::-1]):
        raw, text = file_of(line, tenant=tenant).read_bytes(), decoded(file_of(line, tenant=tenant))
        for word in (other, *canaries(other).values()):
            assert word not in text
            assert word.encode() not in raw and word.encode("utf-16-le") not in raw
        # The search finds what is there.
        assert all(word in text for word in canaries(tenant).values())
        assert canaries(tenant)["event"].encode() in raw


def test_a_file_holds_what_the_role_may_see_of_the_version_that_readers_get(line: Line) -> None:
    declare(line, owner={**OWNER, "labels": ["operational", "behavioural"], "tables": ["events", "batches"]})
    assert keep(line).written == ("owner/acme",)
    path = file_of(line)
    columns = {name for (name,) in rows_of(path, "select column_name from duckdb_columns() where table_name = 'events'")}
    assert {"tenant_id", "event", "revenue", "source"} <= columns
    assert columns.isdisjoint({"user_id", "anonymous_id", "timestamp", "page_url", "properties", "message_id", "region"})
    assert rows_of(path, "select count(*), sum(revenue) from events") == rows_of(
        line.home / "published" / "analytics.duckdb", "select count(*), sum(revenue) from events where tenant_id = 'acme'"
    )
    assert rows_of(path, "select role, tenant_id, version from role_file") == [("owner", "acme", 2)]
    assert rows_of(path, "select distinct label from field_taxonomy order by 1") == [("behavioural",), ("operational",)]
    # The one batch brought events of both, and does not say whose it is.
    assert rows_of(path, "from batches") == []
    assert rows_of(path, "select sum(events), sum(revenue) from aggregates") == [(1512, 3780)]


def test_a_text_that_few_people_have_is_masked_in_every_table_of_a_file(line: Line) -> None:
    """Ann is all of hooli's people, and one of initech's five; all of them ordered a product."""
    tables = ["events", "sessions", "events_daily", "events_hourly"]
    role = {**OWNER, "tenants": ["hooli", "initech"], "tables": tables, "measures": [], "dimensions": []}
    declare(line, owner=role)
    keep(line)
    for tenant, word, seen in (("hooli", b"Product Ordered", "(masked)"), ("initech", b"ann-0-later", "Product Ordered")):
        path = file_of(line, tenant=tenant)
        assert word not in path.read_bytes()
        for table in ("events", "events_daily", "events_hourly"):
            assert rows_of(path, f"select distinct event from {table}") == [(seen,)]
        # Nobody shares an id of a message with anybody; who somebody is the role may see.
        assert rows_of(path, "select distinct message_id from events") == [("(masked)",)]
        assert ("ann",) in rows_of(path, "select distinct user_id from events")
        # What nobody has stays empty.
        assert rows_of(path, "select count(region) from events") == [(0,)]
    declare(line, owner={**role, "rare": "shown"})
    assert keep(line).written == ("owner/hooli", "owner/initech")
    assert rows_of(file_of(line, tenant="hooli"), "select distinct event from events_hourly") == [("Product Ordered",)]


def test_its_rights_let_only_owner_and_group_read_it(line: Line) -> None:
    declare(line, owner=OWNER)
    keep(line)
    assert stat.S_IMODE(file_of(line).stat().st_mode) == 0o640
    assert stat.S_IMODE(file_of(line).parent.stat().st_mode) == 0o750
    assert [path.name for path in file_of(line).parent.iterdir()] == ["acme.duckdb"]


def test_a_row_policy_chooses_the_rows_of_every_table(line: Line) -> None:
    declare(line, owner={**OWNER, "dimensions": ["region"], "rows": {"region": ["nowhere"]}, "tables": ["events", "sessions"]})
    keep(line)
    for table in ("events", "sessions", "aggregates"):
        assert rows_of(file_of(line), f"from {table}") == []


def test_publishing_without_such_roles_makes_no_file(published: Path) -> None:
    assert not (published / "home" / "published" / "roles").exists()


def test_a_file_is_made_anew_with_each_version_and_each_declaration_and_never_else(line: Line) -> None:
    declare(line, owner=OWNER)
    assert [keep(line).written, keep(line).written] == [("owner/acme",), ()]
    assert rows_of(file_of(line), "select version, (select count(*) from events) from role_file") == [(2, 1512)]
    declare(line, owner={**OWNER, "tables": ["events"]})
    assert keep(line).written == ("owner/acme",)
    assert "sessions" not in {name for (name,) in rows_of(file_of(line), "select table_name from duckdb_tables()")}
    go_back(line)
    keep(line)
    assert rows_of(file_of(line), "select version, (select count(*) from events) from role_file") == [(1, 1512)]
    line.publish(release=True)
    assert rows_of(file_of(line), "select version, (select count(*) from events) from role_file") == [(3, 1512)]


def test_what_is_no_longer_declared_is_removed(line: Line) -> None:
    declare(line, owner={**OWNER, "tenants": TENANTS}, other=OWNER)
    keep(line)
    left = file_of(line, "owner", "acme").with_name(".acme.duckdb.staged")
    left.write_bytes(b"of a process that was killed")
    declare(line, owner=OWNER, other={**OWNER, "file": False})
    assert keep(line).removed == ("other/acme", "owner/globex")
    assert sorted(path.name for path in (line.home / "published" / "roles").rglob("*")) == ["acme.duckdb", "owner"]
    declare(line)
    keep(line)
    assert not (line.home / "published" / "roles").exists()


def test_a_file_that_fails_stays_as_it_was_and_is_told_and_the_next_publish_makes_it(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(line, owner={**OWNER, "tenants": "all"})
    keep(line)
    go_back(line)
    with monkeypatch.context() as full:

        def no_space(new: Path, target: Path) -> None:
            if target.name == "acme.duckdb":
                raise OSError(28, "No space left on device")

            shutil.move(new, target)

        full.setattr(role_files, "replace_file", no_space)
        said = r"version 3 is published, but the file of role owner/acme: .*No space left.*run `analytics publish`"
        with pytest.raises(RoleFilesFailed, match=said):
            line.publish(release=True)
    assert rows_of(line.home / "published" / "analytics.duckdb", "select max(version) from published_tables") == [(3,)]
    versions = "select version from role_file"
    assert [rows_of(file_of(line, tenant=name), versions) for name in TENANTS] == [[(2,)], [(3,)]]
    assert not line.publish().changed
    assert rows_of(file_of(line), versions) == [(3,)]


# Answers


def answer(line: Line, tenant: str = "acme", *measures: Any, by: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    stages = line.pipeline
    with egress(stages.settings, declared_roles(stages.settings, stages.specs), stages.table) as answers:
        return answers.answer("analyst", tenant, Request(measures or ("people_per_group", "events"), by)).rows


def test_a_person_of_several_devices_counts_once(line: Line) -> None:
    assert answer(line, "initech") == [(5, 16, 0)]
    assert answer(line, "hooli") == []


def test_days_that_late_events_may_still_change_are_not_told(line: Line) -> None:
    days = [(str(NOON.date()), 12, 1500, 0), (str(NOW.date() - timedelta(days=1)), 12, 12, 0)]
    assert answer(line, by=("day",)) == days
    go_back(line)
    assert answer(line, by=("day",)) == days[:1]


def test_answers_are_of_the_version_that_readers_get_whatever_is_loaded_and_swept(line: Line) -> None:
    go_back(line)
    # Its views would keep the files for version 1 too.
    publishing.version_path(line.pipeline.home, 2).unlink()
    line.load(events_of("acme", 1600)[1500:])
    line.sessions()
    line.pipeline.compact(line.con, NOW + timedelta(days=90))
    line.pipeline.sweep(line.con)
    assert answer(line) == [(12, 1500, 0)]


def test_without_a_version_there_is_no_answer(open_line: Opener) -> None:
    with pytest.raises(UserError, match="nothing is published yet"):
        answer(open_line("empty"))


# On record


def acts(line: Line, action: str, outcome: str | None = None) -> list[Told]:
    return report(Audit(line.pipeline.settings).chain, Wanted(action=action, outcome=outcome))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_for_a_role_is_on_record_with_what_it_holds_whenever_it_is_made(line: Line) -> None:
    declare(line, owner={**OWNER, "tenants": TENANTS, "tables": ["events", "batches"]})
    keep(line)
    first = {tenant: digest(file_of(line, tenant=tenant)) for tenant in TENANTS}
    keep(line)
    go_back(line)
    keep(line)
    found = acts(line, "role_file")
    assert {(act.outcome, act.details["role"]) for act in found} == {("done", "owner")}
    assert [(act.tenant, act.details["version"]) for act in found] == [("acme", 2), ("globex", 2), ("acme", 1), ("globex", 1)]
    assert {act.tenant: act.details["sha256"] for act in found[:2]} == first
    assert found[0].tables == ["events", "batches", "aggregates"]
    # An event a row, and one line of aggregates.
    assert (found[0].details["rows"], found[0].details["masked_groups"]) == (1513, 0)


def test_a_file_that_cannot_be_recorded_stays_as_it_was(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(line, owner=OWNER)
    keep(line)
    before = digest(file_of(line))
    go_back(line)
    (tmp_path / "a-file").touch()
    monkeypatch.setenv("ANALYTICS_KEYS", str(tmp_path / "a-file" / "keys"))
    with pytest.raises(UserError, match="ANALYTICS_KEYS"):
        keep(line)
    assert digest(file_of(line)) == before
    assert [path.name for path in file_of(line).parent.iterdir()] == ["acme.duckdb"]


# Declarations


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tenants": ["nobody"]}, "there is no tenant 'nobody'; add it to tenants.yaml or take it out"),
        ({"tables": ["moods"]}, "there is no published table 'moods'; take it out"),
        ({"tables": ["published_tables"]}, "'published_tables' does not tell whose its rows are; take it out"),
        ({"people": False}, "rows of 'events' tell of persons; set people: true, or take measures instead"),
        (
            {"people": False, "tables": ["withheld_events"], "labels": ["operational", "behavioural"]},
            "what is behavioural may be of one person; set people: true, or let it see operational columns alone",
        ),
        ({"rows": {"product_id": ["p1"]}}, "'sessions' has no column 'product_id', by which rows are chosen; take it out"),
        ({"rows": {"day": ["2026-03-10"]}}, "rows are chosen by their values, and 'day' is a time; take it out"),
        ({"labels": []}, "say which labels it may see, since it names tables"),
        ({"measures": [], "tables": []}, "say which tables or measures its files hold"),
        ({"labels": ["secret"]}, "Input should be 'operational', 'behavioural', "),
        ({"k": 3}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_role_is_one_sentence_with_its_line(line: Line, change: dict[str, Any], sentence: str) -> None:
    declare(line, owner={**OWNER, **change})
    with pytest.raises(ConfigError) as wrong:
        declared_roles(line.pipeline.settings, line.pipeline.specs)
    assert sentence in str(wrong.value)
    assert str(wrong.value).startswith("roles.yaml:") and "\n" not in str(wrong.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"k": 4}, "egress.k: Input should be greater than or equal to 5"),
        ({"levels": ["day", "day"]}, "'day' stands there twice; keep one"),
        ({"levels": ["month"]}, "'event' is no level of egress; add it there, or take it out here"),
        ({"levels": ["month", "event", "region"]}, "revenue of several currencies must not be added up; put currency into "),
    ],
)
def test_a_wrong_rule_is_one_sentence_with_its_line(line: Line, change: dict[str, Any], sentence: str) -> None:
    path = line.pipeline.settings.config / "roles.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({"egress": {**content["egress"], **change}, "roles": {"owner": OWNER}}))
    with pytest.raises(ConfigError, match=r"^roles\.yaml:\d+: ") as wrong:
        declared_roles(line.pipeline.settings, line.pipeline.specs)
    assert sentence in str(wrong.value)


def test_the_projects_own_roles_are_right_and_none_has_a_file(line: Line) -> None:
    roles = declared_roles(line.pipeline.settings, line.pipeline.specs)
    assert set(roles.roles) == {"analyst"} and not roles.roles["analyst"].file


def test_a_wrong_role_stops_the_publish_before_readers_get_a_version_without_its_files(line: Line) -> None:
    declare(line, owner={**OWNER, "tables": ["moods"]})
    before = current_version(line.pipeline.home)
    line.now += timedelta(days=1)
    with pytest.raises(ConfigError, match="there is no published table 'moods'"):
        line.publish()
    assert current_version(line.pipeline.home) == before
    declare(line, owner=OWNER)
    line.publish()
    assert file_of(line).exists()


# The command


@pytest.fixture
def exports(line: Line, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """`analytics export` of this home, into a file of this name."""
    monkeypatch.setenv("ANALYTICS_HOME", str(line.home))
    monkeypatch.setenv("ANALYTICS_CONFIG", str(line.pipeline.settings.config))

    def export(name: str, *arguments: str, role: str = "analyst", tenant: str = "acme") -> Result:
        asked = ["--role", role, "--tenant", tenant, "--out", str(tmp_path / name), *arguments]
        return CliRunner().invoke(cli, ["export", *asked])

    return export


def test_an_export_says_what_it_wrote(exports: Callable[..., Result], tmp_path: Path) -> None:
    done = exports("out.csv", "--measure", "events", "--measure", "revenue", "--by", "month")
    assert done.exit_code == 0
    assert done.stdout == f"wrote 1 line to {tmp_path / 'out.csv'}: version 2, groups of at least 5 people\n"
    assert (tmp_path / "out.csv").read_text() == ("month,currency,events,revenue,masked_groups\n2026-03,EUR,1512,3780.0000,0\n")
    told = json.loads(exports("out.json", "--measure", "events", "--where", "month=2026-02", "--json").stdout)
    assert (told["lines"], told["version"], told["k"]) == (0, 2, 5)
    assert json.loads((tmp_path / "out.json").read_text()) == []


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("out.csv", {"role": "boss"}, "there is no role 'boss' in roles.yaml; declared are: analyst"),
        ("out.csv", {"tenant": "nobody"}, "tenant 'nobody' is not declared; add it to "),
        ("copy/home/out.csv", {}, "what is exported leaves the data home: name a file outside of it"),
        ("gone/out.csv", {}, "there is no folder "),
    ],
)
def test_what_cannot_be_exported_is_one_sentence_and_no_file(
    exports: Callable[..., Result], tmp_path: Path, name: str, arguments: dict[str, str], sentence: str
) -> None:
    done = exports(name, "--measure", "events", **arguments)
    assert isinstance(done.exception, UserError) and str(done.exception).startswith(sentence)
    assert not (tmp_path / name).exists()


def test_an_export_is_on_record_with_role_version_and_digest_and_without_values(
    line: Line, exports: Callable[..., Result], tmp_path: Path
) -> None:
    word = canaries("acme")["product_id"]
    exports("out.csv", "--measure", "events", "--by", "day", "--where", f"product_id={word}", "--from", "2026-03-01")
    (act,) = acts(line, "export")
    assert (act.tenant, act.outcome, act.via, act.tables) == ("acme", "done", "cli export", ["events"])
    assert act.details == {
        "role": "analyst", "format": "csv", "measures": ["events"], "by": ["day"], "where": ["product_id"],
        "from": ["2026-03-01"], "version": 2, "rows": 2, "masked_groups": 0, "sha256": digest(tmp_path / "out.csv"),
    }  # fmt: skip
    assert word.encode() not in b"".join(path.read_bytes() for path in (line.home / "audit").iterdir())
    shown = CliRunner().invoke(cli, ["audit", "report", "--action", "export"]).stdout
    assert "role analyst" in shown and f"sha256 {digest(tmp_path / 'out.csv')[:12]}" in shown


@pytest.mark.parametrize(
    ("asked", "outcome", "role", "tenant"),
    [
        ({"role": "jane@acme.test"}, "denied", "(undeclared)", "acme"),
        ({"role": "owner", "tenant": "globex"}, "denied", "owner", "globex"),
        ({"role": "owner", "by": "campaign"}, "denied", "owner", "acme"),
        ({"role": "owner", "by": "jane@acme.test"}, "denied", "owner", "acme"),
        ({"tenant": "jane@acme.test"}, "refused", "analyst", "(undeclared)"),
    ],
)
def test_what_somebody_may_not_have_is_on_record_and_nothing_that_was_typed(
    line: Line, exports: Callable[..., Result], tmp_path: Path, asked: dict[str, str], outcome: str, role: str, tenant: str
) -> None:
    roles = yaml.safe_load((CONFIG / "roles.yaml").read_text())["roles"]
    declare(line, **roles, owner={**OWNER, "file": False})
    whose = {name: value for name, value in asked.items() if name != "by"}
    assert exports("out.csv", "--measure", "events", "--by", asked.get("by", "month"), **whose).exit_code == 1
    (act,) = acts(line, "export", outcome)
    assert (act.details["role"], act.tenant) == (role, tenant)
    assert not (tmp_path / "out.csv").exists()
    assert b"jane" not in b"".join(path.read_bytes() for path in (line.home / "audit").iterdir())
    assert acts(line, "export", "done") == []


def test_a_format_that_nobody_named_is_wrong_usage(exports: Callable[..., Result]) -> None:
    done = exports("out.xlsx", "--measure", "events")
    assert done.exit_code == 2 and "does not tell its format; add --format" in done.stderr
