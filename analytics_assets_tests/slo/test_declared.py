"""What may be declared of service levels: every wrong line is one sentence with its place and cure."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from analytics_assets.settings import CONFIG, ConfigError, Settings
from analytics_assets.slo.declared import load_objectives
from analytics_assets_tests.slo.declared import HEALTHY, SLOS, THRESHOLDS


def load(path: Path, declared: dict[str, Any]) -> Any:
    path.write_text(yaml.safe_dump(declared, sort_keys=False))
    return load_objectives(path, ["acme", "globex"])


def with_slo(name: str, **objective: Any) -> dict[str, Any]:
    tiers = {"standard": {**SLOS[name]["tiers"]["standard"], **objective}}
    kept = {key: value for key, value in tiers["standard"].items() if value is not None}
    return {**HEALTHY, "slos": {**SLOS, name: {"window_days": 28, "tiers": {"standard": kept}}}}


def with_threshold(**threshold: Any) -> dict[str, Any]:
    return {**HEALTHY, "thresholds": [threshold, *THRESHOLDS[1:]]}


def with_probe(query: str) -> dict[str, Any]:
    return {**HEALTHY, "probes": {"queries": {"slow": query}}}


EXCUSED = {"first": "2026-03-02T00:00", "last": "2026-03-01T00:00", "reason": "moved"}


def test_the_projects_own_file_loads() -> None:
    loaded = load_objectives(CONFIG / "slos.yaml", Settings(CONFIG).tenants)
    assert loaded.tiers_of(["acme"]) == ["standard"]


def test_a_tenant_that_is_not_named_has_the_default_tier(tmp_path: Path) -> None:
    slos = {name: {**slo, "tiers": {**slo["tiers"], "premium": slo["tiers"]["standard"]}} for name, slo in SLOS.items()}
    tiers = {"default": "standard", "tenants": {"acme": "premium"}}
    loaded = load(tmp_path / "slos.yaml", {**HEALTHY, "slos": slos, "tenant_tiers": tiers})
    assert [loaded.tenant_tiers.of(tenant) for tenant in ("acme", "globex")] == ["premium", "standard"]


@pytest.mark.parametrize(
    ("declared", "place", "said"),
    [
        (with_slo("freshness", objective=1.0), "objective", "slos.freshness.tiers.standard.objective: Input should be less"),
        (with_slo("freshness", within_minutes=5), "standard", "freshness has no within_minutes; remove it"),
        (with_slo("ingestion_lag", within_minutes=None), "standard", "ingestion_lag needs within_minutes; add it"),
        (with_slo("query_latency", within_seconds=None), "standard", "query_latency needs within_seconds; add it"),
        ({**HEALTHY, "slos": {**SLOS, "fun": SLOS["freshness"]}}, "fun", "slos.fun: Extra inputs are not permitted"),
        (
            {**HEALTHY, "tenant_tiers": {"default": "gold"}},
            "tiers",
            "ingestion_lag has no objective for the tenant tier 'gold'",
        ),
        (
            {**HEALTHY, "tenant_tiers": {"default": "standard", "tenants": {"nobody": "standard"}}},
            "nobody",
            "tenant 'nobody' is not declared in tenants.yaml; add it there",
        ),
        (with_threshold(state="warn", burn=101), "- ", "a burn of 101 cannot be reached: ingestion_lag of standard burns at"),
        (with_threshold(state="warn", burn=1, over_hours=6, and_hours=6), "- ", "thresholds.0: and_hours is the shorter look"),
        (with_threshold(state="warn", burn=1, over_hours=700), "- ", "over_hours is longer than the window of ingestion_lag"),
        ({**HEALTHY, "thresholds": THRESHOLDS[:1]}, "thresholds", "no threshold freezes; add {state: freeze, burn: 1}"),
        (with_probe("drop table events"), "queries", "probes.queries: slow must be one SELECT without a semicolon"),
        (with_probe("select 1; select 2"), "queries", "probes.queries: slow must be one SELECT without a semicolon"),
        ({**HEALTHY, "excused": [EXCUSED]}, "- ", "excused.0: it ends at 2026-03-01 00:00:00, before it begins; swap"),
    ],
)
def test_a_wrong_line_is_a_sentence_with_its_place(tmp_path: Path, declared: dict[str, Any], place: str, said: str) -> None:
    file = tmp_path / "slos.yaml"
    with pytest.raises(ConfigError) as raised:
        load(file, declared)
    name, number, sentence = str(raised.value).split(":", 2)
    assert name == "slos.yaml"
    assert sentence.strip().startswith(said)
    assert file.read_text().splitlines()[int(number) - 1].strip().startswith(place)
