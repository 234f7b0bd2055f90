"""A source is declared in YAML; a wrong declaration is one sentence with file, line and cure."""

from datetime import timedelta
from pathlib import Path

import pytest

from analytics_assets.settings import CONFIG, ConfigError
from analytics_assets.sources.mapping import load_source, load_sources
from analytics_assets_tests.sources.reading import read_bytes

GOOD = """\
format: table
description: Orders.
twin_lookback: 36 hours
columns:
  id: text
  placed: timestamp
  price: optional double
  "odd name": optional text
fields:
  message_id: id
  event: "'Ordered'"
  timestamp: placed
  revenue: price::decimal(18,4) * 2
  properties: >-
    merged(object({'odd': "odd name"}), extra_columns)
reject:
  - reason: cheap
    when: price < 1
"""


def declared(folder: Path, text: str) -> Path:
    path = folder / "orders.yaml"
    path.write_text(text)
    return path


def test_the_projects_sources_load() -> None:
    sources = load_sources(CONFIG / "sources")
    assert set(sources) == {"online_retail", "snowplow", "segment", "canonical"}
    assert {name: source.twin_lookback.days for name, source in sources.items()} == {
        "online_retail": 0, "canonical": 0, "snowplow": 1, "segment": 1,
    }  # fmt: skip


def test_a_declaration(tmp_path: Path) -> None:
    source = load_source(declared(tmp_path, GOOD))
    assert (source.name, source.format, source.twin_lookback) == ("orders", "table", timedelta(hours=36))
    assert source.required == ["id", "placed"] and source.columns["price"].type == "double"
    rows = read_bytes(tmp_path, "a.csv", "id,placed,price,odd name,more\n1,2025-01-01,2.5,x,[7]\n2,2025-01-01,0.5,,\n", source)
    assert [(row["reason"], row["revenue"]) for row in rows] == [(None, 5), ("cheap", 1)]
    assert rows[0]["properties"] == '{"odd":"x","more":[7]}'


def test_a_value_that_breaks_an_expression_is_rejected_alone(tmp_path: Path) -> None:
    source = load_source(declared(tmp_path, GOOD))
    rows = read_bytes(tmp_path, "a.csv", "id,placed,price\n1,2025-01-01,1e300\n2,2025-01-01,2\n3,2025-01-01,\n", source)
    assert [row["reason"] for row in rows] == ["wrong_type:revenue", None, None]


def test_a_condition_that_cannot_be_evaluated_is_no_pass(tmp_path: Path) -> None:
    source = load_source(declared(tmp_path, GOOD.replace("price < 1", "price::decimal(3,1) < 0")))
    rows = read_bytes(tmp_path, "a.csv", "id,placed,price\n1,2025-01-01,5000\n2,2025-01-01,2\n3,2025-01-01,\n", source)
    assert [row["reason"] for row in rows] == ["cheap", None, None]


@pytest.mark.parametrize(
    ("old", "new", "line", "part"),
    [
        ("format: table", "format: tabel", 1, "table"),
        ("36 hours", "soon", 3, "36 hours"),
        ("id: text", "id: string", 4, "write one of"),
        ("id: text", "line_digest: text", 4, "used by the mapping"),
        ("  placed: timestamp\n", "  placed: timestamp\n  PLACED: text\n", 6, "twice"),
        ("  placed: timestamp\n", "  placed: timestamp\n  placed: text\n", 7, "twice"),
        ("description: Orders.", "descr: Orders.", 1, "description"),
        ("timestamp: placed", "time: at", 9, "no column of events"),
        ("  timestamp: placed\n", "", 9, "'timestamp' is missing"),
        ("message_id: id", "message_id: idd", 10, "no declared column"),
        ("message_id: id", "message_id: id ||", 10, "no SQL expression"),
        ("message_id: id", "message_id: id, placed", 10, "convert it"),
        ("message_id: id", "message_id: id); select (1", 10, "one scalar expression"),
        ("message_id: id", "message_id: id) from range(9) t(x) where (true", 10, "one scalar expression"),
        ("message_id: id", "message_id: (select id)", 10, "subquery"),
        ("message_id: id", "message_id: (from read_text('/etc/passwd') select content)", 10, "subquery"),
        ("message_id: id", "message_id: first(id)", 10, "first"),
        ("message_id: id", "message_id: unnest([id])", 10, "unnest"),
        ("message_id: id", "message_id: uuid()::varchar", 10, "uuid"),
        ("message_id: id", "message_id: now()::varchar", 10, "now"),
        ("message_id: id", "message_id: current_timestamp::varchar", 10, "current_timestamp"),
        ("message_id: id", "message_id: getvariable('x')", 10, "getvariable"),
        ("message_id: id", "message_id: row_number() over ()", 10, "window"),
        ("message_id: id", 'message_id: "*"', 10, "star"),
        ("message_id: id", "message_id: $1", 10, "parameter"),
        ("message_id: id", "message_id: lower(placed)", 10, "does not fit its columns"),
        ("timestamp: placed", "timestamp: price", 12, "does not fit TIMESTAMP"),
        ("when: price < 1", "when: prize < 1", 18, "no declared column"),
        ("reason: cheap", "reason: Too Cheap", 17, "pattern"),
    ],
)
def test_a_wrong_line_is_named_with_its_cure(tmp_path: Path, old: str, new: str, line: int, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_source(declared(tmp_path, GOOD.replace(old, new, 1)))
    message = str(caught.value)
    assert message.startswith(f"orders.yaml:{line}: ") and part in message and "\n" not in message


@pytest.mark.parametrize(
    "text",
    ["", "[]", "just text", "a: [", "format: segment\ndescription: x\ntwin_lookback: 1 day\nfields: {event: x}"],
)
def test_what_is_no_declaration_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"^orders.yaml:\d+: "):
        load_source(declared(tmp_path, text))
