"""What the dbt project declares: models with columns, lineage and tests, read from its YAML and SQL in milliseconds.

Definitions load from this, so dbt (seconds) is not imported; a test holds every answer here against dbt's own manifest.
The project keeps to what is read here: one YAML beside each model, named tests on tables, `tests/<model>/<test>.sql`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import yaml

PROJECT = Path(__file__).parents[2] / "dbt_project"

_COMMENT = re.compile(r"\{#.*?#\}|--[^\n]*", re.DOTALL)
_REF = re.compile(r"""\bref\(\s*['"](\w+)['"]\s*\)""")
_SOURCE = re.compile(r"""\bsource\(\s*['"]warehouse['"]\s*,\s*['"](\w+)['"]\s*\)""")


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    description: str


@dataclass(frozen=True)
class Test:
    """A data test, shown with `model`; it reads the models `refs` and the warehouse tables `sources`."""

    __test__ = False  # pytest takes the name for a test class

    name: str
    model: str
    description: str
    refs: tuple[str, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """A dbt model; it reads the models `refs` and the warehouse tables `sources`."""

    name: str
    layer: Literal["staging", "marts"]
    description: str
    columns: tuple[Column, ...]
    refs: tuple[str, ...]
    sources: tuple[str, ...]
    tests: tuple[Test, ...]

    @property
    def depends_on(self) -> tuple[str, ...]:
        return (*self.refs, *self.sources)


@cache
def models(project: Path = PROJECT) -> Mapping[str, Model]:
    """Every model by name, each after those it reads. Read once: a running process keeps the project it began with."""
    found = {path.stem: _model(path, project) for path in sorted(project.glob("models/*/*.sql"))}
    ordered: dict[str, Model] = {}
    while len(ordered) < len(found):
        ready = [m for m in found.values() if m.name not in ordered and ordered.keys() >= set(m.refs)]
        if not ready:
            raise ValueError(f"models read each other in a circle, or one that is not there: {set(found) - set(ordered)}")
        ordered.update((model.name, model) for model in ready)
    return MappingProxyType(ordered)


def upstream(names: Iterable[str], project: Path = PROJECT) -> set[str]:
    """These models and every model they stand on. Raises KeyError for a name that is no model."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(models(project)[name].refs)
    return found


def _model(path: Path, project: Path) -> Model:
    declared = yaml.load(path.with_suffix(".yml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    (model,) = declared["models"]
    if model["name"] != path.stem:
        raise ValueError(f"{path.with_suffix('.yml').name} describes {model['name']}, not {path.stem}")
    refs, sources = _reads(path)
    return Model(
        name=path.stem,
        layer=cast('Literal["staging", "marts"]', path.parent.name),
        description=model["description"],
        columns=tuple(Column(c["name"], c["data_type"], c["description"]) for c in model["columns"]),
        refs=refs,
        sources=sources,
        tests=tuple(_tests(path.stem, model, declared.get("data_tests", []), project)),
    )


def _tests(model: str, declared: dict[str, Any], described: list[dict[str, Any]], project: Path) -> Iterator[Test]:
    for test in declared.get("data_tests", []):
        (properties,) = test.values()
        yield Test(properties["name"], model, properties["description"], (model,), ())
    descriptions = {test["name"]: test["description"] for test in described}
    for path in sorted(project.glob(f"tests/{model}/*.sql")):
        yield Test(path.stem, model, descriptions.pop(path.stem), *_reads(path))
    if descriptions:
        raise ValueError(f"{model}.yml describes tests that are not there: {', '.join(descriptions)}")


def _reads(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    sql = _COMMENT.sub("", path.read_text(encoding="utf-8"))
    return tuple(sorted(set(_REF.findall(sql)))), tuple(sorted(set(_SOURCE.findall(sql))))
