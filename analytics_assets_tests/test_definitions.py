"""What Dagster sees when it loads the project: every asset described, every dbt test a gate, and nothing touched."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import dagster as dg
import pytest
import yaml

from analytics_assets.definitions import build_definitions
from analytics_assets.defs.automation import SCHEDULES
from analytics_assets.defs.capacity import daily_capacity, weekly_outlook
from analytics_assets.defs.drill import weekly_drill
from analytics_assets.defs.freshness import PROMISES
from analytics_assets.defs.partitions import DAYS
from analytics_assets.defs.resource_configs import MODELS, daily_tune, weekly_retrain
from analytics_assets.defs.resources import BY_ITSELF, production_resources
from analytics_assets.defs.scaling import hourly_plan
from analytics_assets.defs.telemetry import hourly_telemetry
from analytics_assets.events.schema import EVENTS
from analytics_assets.events.tables import BATCHES, REJECTED
from analytics_assets.gate import suites
from analytics_assets.marts.project import models
from analytics_assets.marts.tables import mart_tables
from analytics_assets.privacy.withheld import CONSENT_STATUS
from analytics_assets.quality.tables import QUALITY_RESULTS
from analytics_assets.sessions.tables import PAGE_VIEWS, RUNAWAYS, SESSIONS, USERS
from analytics_assets.settings import PROJECT, ConfigError, Settings
from analytics_assets.slo.declared import SLOS
from analytics_assets.telemetry.tables import PERFORMANCE_METRICS, QUERY_LOG, RELIABILITY_METRICS, STEP_TELEMETRY, UNIT_COSTS
from analytics_assets.tuning.capacity_tables import CAPACITY_FORECAST, CAPACITY_INPUTS, CAPACITY_USE
from analytics_assets.tuning.config_tables import RESOURCE_CONFIGS, TUNING_DECISIONS
from analytics_assets.tuning.features import STEP_FEATURES
from analytics_assets.tuning.tables import LOAD_FORECAST, SCALING_PLAN
from analytics_assets_tests.builders import a_config

TABLES = {
    spec.name: spec
    for spec in (
        EVENTS,
        REJECTED,
        BATCHES,
        SESSIONS,
        PAGE_VIEWS,
        RUNAWAYS,
        USERS,
        CONSENT_STATUS,
        QUALITY_RESULTS,
        STEP_TELEMETRY,
        UNIT_COSTS,
        QUERY_LOG,
        RELIABILITY_METRICS,
        PERFORMANCE_METRICS,
        LOAD_FORECAST,
        SCALING_PLAN,
        STEP_FEATURES,
        CAPACITY_INPUTS,
        CAPACITY_USE,
        CAPACITY_FORECAST,
        RESOURCE_CONFIGS,
        TUNING_DECISIONS,
        *mart_tables(),
    )
}
DAILY = {SESSIONS.name, PAGE_VIEWS.name, RUNAWAYS.name, CONSENT_STATUS.name, QUALITY_RESULTS.name, *models()}
KEPT = {"near_real_time_promise", "hourly_promise", "daily_promise"}
MAINTENANCE = {"retained", "compacted_events", "swept_storage", "run_logs"}
LEVELS = {"slo_error_budget", "release_gate"}
LOAD = "import dagster; from analytics_assets.definitions import defs; dagster.Definitions.validate_loadable(defs())"


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions()


@pytest.fixture(scope="module")
def specs(definitions: dg.Definitions) -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


# A process that has only imported Dagster, which takes seconds, becomes one that loads the definitions for each line it reads.
LOADER = f"""
import json, os, sys, dagster
for line in sys.stdin:
    out, environment = json.loads(line)
    child = os.fork()
    if not child:
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(os.path.join(out, name), os.O_WRONLY | os.O_CREAT), number)
        os.environ.update(environment)
        exec({LOAD!r})
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Loaded:
    returncode: int
    stdout: str
    stderr: str


Loading = Callable[..., Loaded]


@pytest.fixture(scope="module")
def loading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loading]:
    """Definitions loaded by a process of their own under an environment, as Dagster's code server does."""
    command = [sys.executable, "-W", "ignore", "-c", LOADER]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as loader:
        assert loader.stdin and loader.stdout
        asked, answers = loader.stdin, loader.stdout

        def load(**environment: str) -> Loaded:
            out = tmp_path_factory.mktemp("loaded")
            print(json.dumps([str(out), environment]), file=asked, flush=True)
            return Loaded(int(answers.readline()), *((out / name).read_text() for name in ("stdout", "stderr")))

        yield load
        asked.close()


# Assets


def test_the_definitions_load(definitions: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(definitions)


def test_every_asset_says_whose_and_what_it_is(specs: dict[str, dg.AssetSpec]) -> None:
    assert set(specs) == {*TABLES, *models(), "analytics_duckdb", *MAINTENANCE, *KEPT, *LEVELS, MODELS}
    for name, spec in specs.items():
        assert spec.description, name
        assert spec.group_name not in (None, "default"), name
        assert spec.kinds, name
        assert spec.owners == ["team:data-platform"], name
        assert spec.tags["rebuilt"] in ("by_batch", "by_day", "as_a_whole"), name


@pytest.mark.parametrize("name", sorted(TABLES))
def test_an_asset_shows_the_columns_of_its_table(specs: dict[str, dg.AssetSpec], name: str) -> None:
    shown = specs[name].metadata["dagster/column_schema"]
    assert isinstance(shown, dg.TableSchema)
    declared = [(column.name, column.type.lower()) for column in TABLES[name].columns]
    assert [(column.name, column.type) for column in shown.columns] == declared
    assert all(column.description for column in shown.columns)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_published_asset_leads_to_what_stands_behind_it(specs: dict[str, dg.AssetSpec], name: str) -> None:
    shown = specs[name].metadata
    assert shown["explained by"] == dg.MetadataValue.asset(dg.AssetKey("analytics_duckdb"))
    assert shown["explain"] == dg.MetadataValue.text(f"analytics explain {name}")


def test_a_range_of_days_is_one_run_from_sessions_to_marts(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    daily = {key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).partitions_def is not None}
    assert daily == DAILY
    for name in DAILY:
        node = graph.get(dg.AssetKey(name))
        assert node.partitions_def == DAYS
        assert node.backfill_policy == dg.BackfillPolicy.single_run()


def test_the_partitions_begin_with_the_first_day_that_an_event_may_carry_and_hold_today() -> None:
    morning = datetime.fromisoformat("2026-03-10 00:05:00+00:00")
    days = DAYS.get_partition_keys(current_time=morning)
    assert (days[0], days[-1]) == (Settings.from_env().limits.events.earliest, "2026-03-10")


# dbt


def test_every_dbt_model_is_an_asset_with_its_lineage(specs: dict[str, dg.AssetSpec]) -> None:
    read = {name: {dep.asset_key.to_user_string() for dep in specs[name].deps} for name in models()}
    for name, model in models().items():
        assert specs[name].group_name == model.layer
        assert read[name] >= set(model.refs)
    # What is read beside the models: `days` is no table of its own, `identities` are made with the sessions.
    assert read["stg_events"] == {"events", "sessions"}
    assert read["stg_sessions"] == {"sessions"}
    assert {name for deps in read.values() for name in deps} <= set(specs)


def test_every_dbt_test_is_a_check_that_blocks_what_comes_after(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    declared = {(model.name, test.name): test.description for model in models().values() for test in model.tests}
    found = {
        (key.asset_key.to_user_string(), key.name): graph.get_check_spec(key)
        for key in graph.asset_check_keys
        if (key.asset_key.to_user_string(), key.name) in declared
    }
    assert {key: spec.description for key, spec in found.items()} == declared
    assert len(found) > len(mart_tables())
    assert all(spec.blocking for spec in found.values())


def test_every_expectation_is_a_check_on_the_table_that_it_judges(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found = {(key.asset_key.to_user_string(), key.name): graph.get_check_spec(key) for key in graph.asset_check_keys}
    for suite in suites():
        for expected in suite.expectations:
            spec = found[suite.table.name, expected.name]
            assert (spec.description, spec.metadata["severity"]) == (expected.says, expected.severity)


def test_what_is_published_waits_for_every_table(specs: dict[str, dg.AssetSpec]) -> None:
    assert {dep.asset_key.to_user_string() for dep in specs["analytics_duckdb"].deps} == set(TABLES)


# Automation


def test_sensors_and_schedules_run_without_a_click(definitions: dg.Definitions) -> None:
    sensors = list(definitions.sensors or [])
    assert [sensor.name for sensor in sensors] == [
        "landing",
        "automation",
        "near_real_time",
        "hourly",
        "daily",
        "alerts",
        "erasures",
        "scaling",
        "opening",
    ]
    assert {sensor.default_status for sensor in sensors} == {dg.DefaultSensorStatus.RUNNING}
    assert {schedule.name for schedule in SCHEDULES} == {"nightly"}
    running = [*SCHEDULES, hourly_telemetry, hourly_plan, daily_capacity, weekly_outlook, daily_tune, weekly_retrain]
    assert list(definitions.schedules or []) == [*running, weekly_drill]
    # There are backups only where somebody names a place for them.
    assert weekly_drill.default_status == dg.DefaultScheduleStatus.STOPPED
    assert {schedule.default_status for schedule in running} == {dg.DefaultScheduleStatus.RUNNING}


def test_every_published_table_shows_its_tier_and_every_promise_has_dagsters_own_policy(specs: dict[str, dg.AssetSpec]) -> None:
    assert {name: specs[name].tags["tier"] for name in TABLES} == PROMISES.tables
    assert {name for name, spec in specs.items() if spec.freshness_policy} == KEPT


def test_every_slo_and_the_release_gate_has_a_check(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found = {key.name for key in graph.asset_check_keys if key.asset_key.to_user_string() in LEVELS}
    assert found == {*(f"{slo}_is_kept" for slo in SLOS), "is_open"}


def test_each_job_has_its_own_assets(definitions: dg.Definitions) -> None:
    chosen = {
        name: {key.to_user_string() for key in definitions.resolve_job_def(name).asset_layer.executable_asset_keys}
        for name in ("ingest", "refresh", "publish", "maintain", "telemetry", "plan", "capacity", "outlook", "tune", "retrain")
    }
    assert chosen["ingest"] == {"events", "rejected_events", "batches"}
    assert chosen["refresh"] == {*DAILY, "users", "analytics_duckdb"}
    assert chosen["publish"] == {"analytics_duckdb"}
    assert chosen["maintain"] == MAINTENANCE
    assert chosen["telemetry"] == {
        "step_telemetry", "unit_costs", "query_log", "reliability_metrics", "performance_metrics"
    }  # fmt: skip
    assert chosen["plan"] == {"load_forecast", "scaling_plan"}
    assert chosen["capacity"] == {"capacity_inputs", "capacity_use"}
    assert chosen["outlook"] == {"capacity_use", "capacity_forecast"}
    assert chosen["tune"] == {"step_features", "resource_configs", "tuning_decisions"}
    assert chosen["retrain"] == {*chosen["tune"], MODELS}


# Loading


@pytest.fixture
def nowhere(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "there" / "is" / "no" / "home"


def test_loading_touches_no_data(loading: Loading, nowhere: Path, tmp_path: Path) -> None:
    loaded = loading(ANALYTICS_HOME=str(nowhere))
    assert (loaded.returncode, loaded.stdout, loaded.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("limits.yaml", "sessions:\n  inactivity_minutes: 30\n  longest_hours: a while\n", "3: sessions.longest_hours: "),
        ("tenants.yaml", "tenants:\n  - {id: acme}\n  - {id: Acme Ltd}\n", "3: tenants.1.id: 'Acme Ltd' is no tenant slug"),
        ("slos.yaml", "slos:\n  freshness:\n    window_days: 0\n", "1: tenant_tiers: Field required"),
        ("alerts.yaml", "channels: {}\nroutes: {warn: [chat], page: []}\n", "2: there is no channel 'chat'; declared are none"),
        ("freshness.yaml", "tiers:\n  daily:\n    promise_minutes: soon\n", "1: tiers.immediate: Field required"),
        ("scaling.yaml", "mode: act\npools: {Large: {}}\n", "2: pools"),
        ("calendar.yaml", "places: 7\n", "1: places"),
    ],
)
def test_a_wrong_line_in_a_declaration_fails_the_load_with_its_place(
    loading: Loading, nowhere: Path, tmp_path: Path, name: str, text: str, said: str
) -> None:
    config = a_config(tmp_path / "config")
    (config / name).write_text(text)
    loaded = loading(ANALYTICS_HOME=str(nowhere), ANALYTICS_CONFIG=str(config))
    assert loaded.returncode != 0
    assert loaded.stderr.splitlines()[-1].startswith(f"analytics_assets.settings.ConfigError: {name}:{said}")


@pytest.mark.parametrize("name", BY_ITSELF)
def test_what_only_a_job_reads_fails_the_load_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    config = a_config(tmp_path / "config")
    lines = len((config / name).read_text().splitlines())
    (config / name).write_text(f"{(config / name).read_text()}no_such_key: 1\n")
    monkeypatch.setenv("ANALYTICS_CONFIG", str(config))
    with pytest.raises(ConfigError, match=rf"{name}:{lines + 1}: no_such_key: .*; correct its name, or remove it"):
        production_resources()


@pytest.mark.parametrize("name", ["queues.yaml", "incidents.yaml"])
def test_a_declaration_that_is_missing_fails_the_load(loading: Loading, nowhere: Path, tmp_path: Path, name: str) -> None:
    config = a_config(tmp_path / "config")
    (config / name).unlink()
    loaded = loading(ANALYTICS_HOME=str(nowhere), ANALYTICS_CONFIG=str(config))
    assert f"ConfigError: {name}:1: cannot be read (FileNotFoundError); restore the file" in loaded.stderr


def test_the_immediate_tier_may_be_given_a_sensor(loading: Loading, nowhere: Path, tmp_path: Path) -> None:
    config = a_config(tmp_path / "config")
    path = config / "freshness.yaml"
    declared = yaml.safe_load(path.read_text())
    declared["tiers"]["immediate"] = {
        "promise_minutes": 1, "served_by": "sensor", "start_after_minutes": 0, "queue": "immediate", "priority": 40
    }  # fmt: skip
    path.write_text(yaml.safe_dump(declared))
    loaded = loading(ANALYTICS_HOME=str(nowhere), ANALYTICS_CONFIG=str(config))
    assert (loaded.returncode, loaded.stderr) == (0, "")
