"""What `project` reads from YAML and SQL equals what dbt itself understands."""

import subprocess
import sys
from pathlib import Path

import pytest

from analytics_assets.marts import build, project


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory):
    return build.manifest(tmp_path_factory.mktemp("dbt"))


def names(nodes: list[str], kind: str) -> tuple[str, ...]:
    return tuple(sorted(node.split(".")[-1] for node in nodes if node.startswith(f"{kind}.")))


def test_models_lineage_and_columns_equal_the_manifest(manifest) -> None:
    theirs = {
        node.name: (
            node.fqn[1],
            node.description,
            tuple((c.name, c.data_type, c.description) for c in node.columns.values()),
            names(node.depends_on.nodes, "model"),
            names(node.depends_on.nodes, "source"),
        )
        for node in manifest.nodes.values()
        if node.resource_type == "model"
    }
    ours = {
        model.name: (
            model.layer,
            model.description,
            tuple((c.name, c.type, c.description) for c in model.columns),
            model.refs,
            model.sources,
        )
        for model in project.models().values()
    }
    assert ours == theirs


def test_tests_equal_the_manifest(manifest) -> None:
    theirs = {
        node.name: (node.description, names(node.depends_on.nodes, "model"), names(node.depends_on.nodes, "source"))
        for node in manifest.nodes.values()
        if node.resource_type == "test"
    }
    declared = [test for model in project.models().values() for test in model.tests]
    assert {test.name: (test.description, test.refs, test.sources) for test in declared} == theirs
    assert len(declared) == len(theirs)
    assert all(test.model in test.refs for test in declared)


def test_every_mart_has_a_unit_test(manifest) -> None:
    tested = {unit.model for unit in manifest.unit_tests.values()}
    assert {model.name for model in project.models().values() if model.layer == "marts"} <= tested


def test_everything_is_described_in_sentences() -> None:
    for model in project.models().values():
        for text in (model.description, *(c.description for c in model.columns), *(t.description for t in model.tests)):
            assert text[0].isupper() or text[0] == "`", text
            assert text.endswith("."), text
            assert "\n" not in text, text


def test_models_come_after_what_they_read() -> None:
    seen: set[str] = set()
    for model in project.models().values():
        assert set(model.refs) <= seen
        seen.add(model.name)


def test_upstream_ends_at_the_warehouse() -> None:
    assert project.upstream(["events_hourly", "stg_sessions"]) == {"events_hourly", "stg_events", "stg_sessions"}


def test_reading_is_light() -> None:
    """Definitions load through here: neither dbt nor DuckDB nor Dagster."""
    code = (
        "import sys; from analytics_assets.marts import project; assert project.models();"
        "print([m for m in ('dbt', 'duckdb', 'dagster', 'pydantic') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


@pytest.mark.parametrize(
    ("path", "line", "says"),
    [
        ("a.sql", "select * from {{ ref('b') }}", "circle"),
        ("a.yml", "{models: [{name: other, description: x, columns: []}]}", "describes other, not a"),
        (
            "a.yml",
            "{models: [{name: a, description: x, columns: []}], data_tests: [{name: gone, description: x}]}",
            "tests that are not there: gone",
        ),
    ],
)
def test_a_wrong_declaration_is_refused(tmp_path: Path, path: str, line: str, says: str) -> None:
    folder = tmp_path / "models" / "marts"
    folder.mkdir(parents=True)
    (folder / "a.sql").write_text("select 1")
    (folder / "a.yml").write_text("{models: [{name: a, description: x, columns: []}]}")
    (folder / path).write_text(line)
    with pytest.raises(ValueError, match=says):
        project.models(tmp_path)
