"""House rules that a reader would otherwise have to remember: who may import whom, how long a module may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from analytics_assets.settings import PROJECT

PACKAGE = PROJECT / "analytics_assets"
MODULES = sorted(PACKAGE.rglob("*.py"))

_LOGIC = {
    "alerts",
    "aside",
    "audit",
    "capacity",
    "consents",
    "erasure",
    "events",
    "explain",
    "freshness",
    "gate",
    "labelling",
    "landing",
    "marts",
    "outgoing",
    "privacy",
    "quality",
    "replay",
    "retention",
    "sessions",
    "settings",
    "shown",
    "slo",
    "sources",
    "telemetry",
    "tuning",
    "warehouse",
    "workplace",
}

# Arrows of the house: what each room may use beside itself. Rooms whose issue has not come yet are not listed.
MAY_USE = {
    "settings": set(),
    "warehouse": {"settings"},
    "audit": {"settings", "warehouse"},
    "events": {"warehouse", "settings"},
    "sources": {"events", "settings", "warehouse"},
    "sessions": {"warehouse", "settings"},
    "marts": {"warehouse"},
    "landing": {"settings", "sources"},
    "tuning": {"events", "settings", "telemetry", "warehouse"},
    "freshness": {"events", "warehouse", "settings"},
    "slo": {"events", "freshness", "settings", "warehouse"},
    "alerts": {"freshness", "privacy", "quality", "settings", "slo", "tuning", "warehouse"},
    "quality": {"settings", "warehouse"},
    "telemetry": {"settings", "warehouse"},
    "privacy": {"audit", "settings", "warehouse"},
    "labelling": {"audit", "events", "freshness", "marts", "privacy", "sessions", "settings", "slo", "warehouse"},
    "capacity": {"events", "marts", "privacy", "sessions", "settings", "slo", "telemetry", "tuning", "warehouse"},
    "consents": {"events", "privacy", "sessions", "settings", "warehouse"},
    "outgoing": {"audit", "events", "freshness", "labelling", "privacy", "sessions", "settings", "shown", "warehouse"},
    "explain": {
        "audit",
        "events",
        "freshness",
        "gate",
        "labelling",
        "privacy",
        "quality",
        "settings",
        "warehouse",
    },
    "gate": {"events", "marts", "privacy", "quality", "sessions", "settings", "warehouse"},
    "aside": {"events", "gate", "landing", "sessions", "settings", "sources", "warehouse"},
    "erasure": {"audit", "events", "privacy", "sessions", "settings", "sources", "warehouse"},
    "workplace": {"events", "sessions", "settings", "warehouse"},
    "replay": {"events", "sources", "warehouse"},
    "shown": {"events", "marts", "privacy", "quality", "sessions", "telemetry", "tuning", "warehouse"},
    "retention": {
        "events",
        "freshness",
        "labelling",
        "marts",
        "privacy",
        "quality",
        "sessions",
        "settings",
        "shown",
        "slo",
        "warehouse",
    },
    "expiry": {
        "audit",
        "erasure",
        "events",
        "freshness",
        "labelling",
        "landing",
        "outgoing",
        "pipeline",
        "privacy",
        "retention",
        "sessions",
        "settings",
        "slo",
        "warehouse",
    },
    "declarations": {
        "alerts",
        "freshness",
        "labelling",
        "outgoing",
        "pipeline",
        "privacy",
        "retention",
        "settings",
        "sources",
        "telemetry",
        "tuning",
    },
    "backups": {"audit", "events", "expiry", "freshness", "pipeline", "settings", "slo", "warehouse"},
    "pipeline": _LOGIC - {"aside"},
    "console": {"defs", "events", "pipeline", "privacy", "settings", "warehouse"},
    "status": _LOGIC | {"console", "declarations", "defs", "pipeline"},
    "commands": _LOGIC | {"backups", "console", "defs", "expiry", "pipeline", "status"},
    "cli": _LOGIC | {"commands", "console", "defs", "definitions", "pipeline", "status"},
    "defs": _LOGIC | {"backups", "declarations", "definitions", "expiry", "pipeline"},
    "definitions": {"defs"},
}
DAGSTER_ROOMS = {"defs", "definitions"}
# What takes long to import, and what only a running step needs.
HEAVY = {"dbt", "deltalake", "polars", "pandas", "great_expectations", "sklearn", "xgboost"}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, also those inside functions."""
    package = ".".join(path.relative_to(PROJECT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            yield node.lineno, base
            # `from analytics_assets import sources` names a room too.
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names if base == "analytics_assets")


def test_the_house_is_where_it_should_be() -> None:
    assert {room_of(path) for path in MODULES} - {"__init__"} == MAY_USE.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_dagster_is_imported_in_defs_only(path: Path) -> None:
    found = [f"line {line}: {name}" for line, name in imports_of(path) if name.split(".")[0].startswith("dagster")]
    assert not found or room_of(path) in DAGSTER_ROOMS, found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_uses_only_the_rooms_that_the_design_allows(path: Path) -> None:
    room = room_of(path)
    allowed = MAY_USE.get(room, set()) | {room}
    found = [
        f"line {line}: {name}"
        for line, name in imports_of(path)
        if name.startswith("analytics_assets.") and name.split(".")[1] not in allowed
    ]
    assert not found, found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_short_and_opens_with_its_charter(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    assert not text.strip() or ast.get_docstring(ast.parse(text))


def test_definitions_load_without_the_heavy_libraries() -> None:
    code = (
        "import sys, analytics_assets.definitions as d; d.build_definitions(); print(*{m.split('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert HEAVY & set(done.stdout.split()) == set()
