"""The egress: does an attacker get a small group out, and what do files for roles add to a publish?

The attacker asks 10,000 questions about 100 small sets of rows, by two roles, and lays all answers side by side (see
`analytics_assets_tests/privacy/attack.py`). The cost is that of the retail sample: one role with a file for each of its 38
tenants, of sessions, events and aggregates, against building the full file.
"""

import resource
from collections.abc import Callable
from typing import Any

import duckdb
import yaml

from analytics_assets.events.intake import utc_now
from analytics_assets.outgoing import declared_roles, egress, keep_role_files
from analytics_assets.pipeline import Pipeline
from analytics_assets.privacy.egress import Request
from analytics_assets.settings import CONFIG, Settings
from analytics_assets_tests.builders import RETAIL, a_config
from analytics_assets_tests.privacy.attack import attack
from benchmarks.measure import Bench, Finding, Measured

_ROLE: dict[str, Any] = {
    "purpose": "what the owner of a shop sees",
    "tenants": "all",
    "measures": ["people_per_group", "events", "revenue"],
    "dimensions": ["month", "day", "event"],
    "tables": ["sessions", "events"],
    "labels": ["operational", "behavioural"],
    "people": True,
    "file": True,
}


def measure(bench: Bench) -> Measured:
    seeds, requests = (10, 100) if bench.small else (100, 100)
    folder = bench.folder("attack")
    with duckdb.connect(config={"threads": 1}) as con:
        attackers = [attack(con, seed, requests, folder) for seed in range(seeds)]
    found = sum(len(one.too_small()) + len(one.rare_names()) for one in attackers)
    told = sum(len(set(one.told)) for one in attackers)
    cost = _costs(bench)
    return Measured(
        (
            Finding(f"egress: groups of fewer than k people after {seeds * requests:,} questions", found, "", 0),
            Finding("egress: CPU of 38 files for roles / of the publish", cost["files"] / cost["publish"]),
            Finding("egress: CPU of an answer about 487,806 events", cost["answer"], "s"),
            Finding("egress: CPU of a publish step without such roles", cost["nothing"], "s"),
        ),
        {"different sums told": told, **cost},
        (f"The attacker was told {told:,} different sums.",),
    )


def _costs(bench: Bench) -> dict[str, float]:
    """CPU seconds of each step."""
    home = bench.folder("roles")
    config = home / "config"
    a_config(config)
    (config / "tenants.yaml").write_text((CONFIG / "tenants.yaml").read_text())
    (config / "limits.yaml").write_text((CONFIG / "limits.yaml").read_text())
    pipeline = Pipeline(Settings(home / "home", config))
    stages, found = (pipeline.settings, pipeline.specs, pipeline.table), dict[str, float]()
    with pipeline.connect() as con:
        pipeline.load(con, RETAIL, "online_retail", None, utc_now())
        days = pipeline.pending(con)
        pipeline.rebuild_sessions(con, days)
        pipeline.rebuild_marts(con, days)
        pipeline.rebuild_users(con)
        pipeline.judge(con, utc_now())
        found["publish"] = _cpu(lambda: pipeline.publish(con, utc_now()))
    found["nothing"] = _cpu(lambda: keep_role_files(*stages))

    def ask() -> None:
        with egress(pipeline.settings, declared_roles(pipeline.settings, pipeline.specs), pipeline.table) as answers:
            answers.answer("analyst", "united-kingdom", Request(("revenue", "people_per_group"), ("month",)))

    found["answer"] = _cpu(ask)
    declared = yaml.safe_load((config / "roles.yaml").read_text())
    (config / "roles.yaml").write_text(yaml.safe_dump({**declared, "roles": {"owner": _ROLE}}))
    found["files"] = _cpu(lambda: keep_role_files(*stages))
    return found


def _cpu(work: Callable[[], object]) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
