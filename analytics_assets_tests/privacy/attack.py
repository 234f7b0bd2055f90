"""An attacker on the egress: asks whatever roles may ask, in all ways, and lays all answers side by side.

Row number i counts 2**i in every measure in which it has a part: so a sum tells exactly which rows are in it. Rows that are in
the same sums can be told apart by no combination of answers; rows that are not in the same, perhaps. So each set of rows
that are in the same sums must be of k people at least. That is stricter than any arithmetic which an attacker could do.
"""

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import duckdb

from analytics_assets.privacy.egress import FORMATS, MASKED, NONE, Answer, Egress, Format, Request, write
from analytics_assets.privacy.roles import DIMENSIONS, Dimension, MeasureName, Roles

K = 5
LEVELS: tuple[Dimension, ...] = get_args(Dimension)
MEASURES: tuple[MeasureName, ...] = get_args(MeasureName)
_SUMS = [name for name in MEASURES if name != "people_per_group"]
_VALUES = {
    "currency": ("EUR", "USD", ""),
    "event": ("look", "buy", MASKED, NONE, ""),
    "region": ("north", "south", "a,b", "=1+1", ""),
    "campaign": ("", "spring\n", "'; drop table blocks; --"),
    "product_id": ("", "p1", "p2", "p3"),
}
_FIRST = date(2026, 3, 30)


@dataclass(frozen=True)
class Row:
    """An event of somebody (None: nobody knows who)."""

    person: str | None
    values: dict[str, str]
    parts: frozenset[str]


def roles(rng: random.Random | None = None) -> Roles:
    """Two roles that ask about other rows, by other dimensions: together they must not know more."""
    order = rng.sample(LEVELS, len(LEVELS)) if rng else LEVELS
    one = {"purpose": "asks everything", "tenants": "all", "measures": MEASURES, "dimensions": LEVELS}
    other = {**one, "tenants": ["acme"], "dimensions": ["day", "event", "campaign"], "rows": {"region": ["north", NONE]}}
    return Roles.model_validate({"egress": {"k": K, "levels": order}, "roles": {"all": one, "north": other}})


def some_rows(rng: random.Random) -> list[Row]:
    """Events of a tenant: many combinations, few people, so that most groups are small."""
    people = [*(f"p{n}" for n in range(rng.choice([4, 10, 30, 60]))), *[None] * rng.randint(0, 2)]
    kinds = {name: rng.sample(values, min(len(values), rng.choice([1, 1, 1, 2, 2, 4]))) for name, values in _VALUES.items()}
    days, share = rng.choice([1, 2, 4]), rng.choice([0.2, 0.5, 0.8, 1])
    made = []
    for _ in range(rng.choice([15, 30, 60, 60])):
        day = _FIRST + timedelta(days=rng.randrange(days))
        values = {name: rng.choice(found) for name, found in kinds.items()}
        values |= {"day": day.isoformat(), "month": f"{day:%Y-%m}"}
        parts = frozenset({"events", *(name for name in ("quantity", "revenue") if rng.random() < share)})
        made.append(Row(rng.choice(people), values, parts))
    return made


def select(con: duckdb.DuckDBPyConnection, rows: Sequence[Row]) -> str:
    """The rows as the egress wants them, in a table of `con`."""
    columns = ", ".join(f'"{name}" varchar' for name in DIMENSIONS)
    con.execute(f"create or replace table rows (person varchar, {columns}, events hugeint, quantity hugeint, revenue hugeint)")
    values = [
        (row.person, *(row.values[name] for name in DIMENSIONS), *(2**n if name in row.parts else 0 for name in _SUMS))
        for n, row in enumerate(rows)
    ]
    parts = ", ".join(f"unnest(?::{'varchar' if n <= len(DIMENSIONS) else 'hugeint'}[])" for n in range(len(values[0])))
    con.execute(f"insert into rows select {parts}", [list(column) for column in zip(*values, strict=True)])
    return "from rows"


def some_request(rng: random.Random, declared: Roles) -> tuple[str, Request]:
    """A role, and something that it may ask."""
    name = rng.choice(list(declared.roles))
    may = declared.roles[name]
    by = rng.sample(may.dimensions, rng.randint(0, min(4, len(may.dimensions))))
    where = {}
    for dimension in rng.sample(may.dimensions, rng.choice([0, 0, 1, 2])):
        known = _VALUES.get(dimension, ("2026-03", "2026-04", "2026-03-30", "2026-03-31"))
        where[dimension] = rng.sample([*known, NONE, MASKED], rng.randint(1, 3))
    days = [_FIRST + timedelta(days=n) for n in range(-1, 5)]
    first, last = (rng.choice([None, None, rng.choice(days)]) for _ in range(2))
    return name, Request(tuple(rng.sample(may.measures, rng.randint(1, 4))), tuple(by), where, first, last)


@dataclass
class Attacker:
    """Remembers which rows were in each sum that it was told."""

    rows: Sequence[Row]
    told: list[int] = field(default_factory=list)
    names: set[tuple[str, str]] = field(default_factory=set)

    def learn(self, answer: Answer) -> None:
        for row in answer.rows:
            line = dict(zip(answer.columns, row, strict=True))
            self.told += [int(line[name]) for name in _SUMS if line.get(name) is not None]
            self.names |= {(name, line[name]) for name in LEVELS if name in line}

    def too_small(self) -> list[set[str | None]]:
        """Those whom all answers together tell apart, fewer than k of them."""
        alike: dict[tuple[bool, ...], set[str | None]] = {}
        told = sorted(set(self.told))
        for n, row in enumerate(self.rows):
            alike.setdefault(tuple(bool(one >> n & 1) for one in told), set()).add(row.person)
        return [people for pattern, people in alike.items() if any(pattern) and len(people - {None}) < K]

    def rare_names(self) -> list[tuple[str, str]]:
        """Values that were told, of fewer than k people."""
        found = []
        for dimension, name in self.names - {(level, said) for level in LEVELS for said in (MASKED, NONE)}:
            people = {row.person for row in self.rows if row.values[dimension] == name}
            if len(people - {None}) < K:
                found.append((dimension, name))
        return found


def attack(con: duckdb.DuckDBPyConnection, seed: int, requests: int, folder: Path, files: int = 3) -> Attacker:
    """Ask so many requests about one set of rows; some answers go through files of all formats."""
    rng = random.Random(seed)
    rows, declared = some_rows(rng), roles(rng)
    egress, attacker = Egress(con, declared, lambda tenant: select(con, rows)), Attacker(rows)
    for number in range(requests):
        name, request = some_request(rng, declared)
        answer = egress.answer(name, "acme", request)
        if number < files:
            form = rng.choice(FORMATS)
            path = folder / f"answer.{form}"
            write(answer, path, form)
            answer = read(path, form)
        attacker.learn(answer)
    return attacker


def read(path: Path, form: Format) -> Answer:
    """An answer as who got the file reads it."""
    if form == "parquet":
        with duckdb.connect() as con:
            found = con.execute("from read_parquet(?)", [str(path)])
            return Answer(tuple(column[0] for column in found.description or []), found.fetchall())
    if form == "csv":
        with path.open(encoding="utf-8", newline="") as file:
            columns, *lines = csv.reader(file)
        return Answer(tuple(columns), [tuple(map(_value, columns, line)) for line in lines])
    objects = json.loads(path.read_text(encoding="utf-8"))
    columns = list(objects[0]) if objects else []
    return Answer(tuple(columns), [tuple(map(_value, columns, one.values())) for one in objects])


def _value(column: str, text: Any) -> Any:
    if column in LEVELS:
        return text
    return None if text in ("", None) else int(Decimal(text))
