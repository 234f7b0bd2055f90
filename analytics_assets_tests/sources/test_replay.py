"""What is kept of a record says all that is needed to judge it again: without a fix, a replay changes nothing."""

import base64
import gzip
import math
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_assets.events.tables import REJECTED
from analytics_assets.sources.mapping import load_source
from analytics_assets_tests.builders import Line
from analytics_assets_tests.faults import ROUNDS
from analytics_assets_tests.sources.reading import alike_again, an_event, lines, read, read_bytes, reread

HEADER = "message_id,event,timestamp,properties,quantity"
CELLS = st.sampled_from(
    ["", " ", "m1", "acme", "2025-06-01", "5", "1.5", "NaN", "null", "{}", '{"a": 1}', "{", "base64:e30=", "base64:", "sep=,",
     '"', '"a\nb"', '""', "\0", "\r", "\u200b", "\u2028", "é", "infinity", "x" * 300]
)  # fmt: skip


@settings(max_examples=20 * ROUNDS, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_csv_is_judged_alike_again(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    delimiter, end = data.draw(st.sampled_from(",;\t|")), data.draw(st.sampled_from(["\n", "\r\n", "\r\r\n"]))
    records = data.draw(st.lists(st.lists(CELLS, min_size=4, max_size=6).map(delimiter.join), max_size=6))
    text = end.join([HEADER.replace(",", delimiter), *records, ""]).encode() + data.draw(st.sampled_from([b"", b"a\xff,"]))
    name = data.draw(st.sampled_from(["a.csv", "a.csv.gz"]))
    content = gzip.compress(text) if name.endswith(".gz") else text
    rows = read_bytes(tmp_path_factory.mktemp("any"), name, content, "canonical", tenant="acme")
    alike_again(rows, "canonical", tenant="acme")


@pytest.mark.parametrize("name", ["a.ndjson", "a.csv"])
@pytest.mark.parametrize("line", ["base64:e30=", "base64:", "base64:not", "bad\r\r", "sep=,", '{"message_id":{}}'])
def test_text_that_looks_like_what_is_kept_is_nothing_special(tmp_path: Path, name: str, line: str) -> None:
    text = f"{HEADER}\n{line}\n" if name == "a.csv" else f"{line}\n"
    (row,) = rows = read_bytes(tmp_path, name, text, "canonical", tenant="acme")
    assert row["reason"] is not None
    alike_again(rows, "canonical", tenant="acme")


def test_a_rejected_csv_record_is_kept_as_a_file_of_this_record(tmp_path: Path) -> None:
    text = 'timestamp;message_id;event\n2025-06-01;m1;"two\r\nlines"\n2025-06-01;m2\nsoon;m3;e\n'
    rows = read_bytes(tmp_path, "a.csv", text, "canonical", tenant="acme")
    assert [row["reason"] for row in rows] == [None, "malformed_csv", "wrong_type:timestamp"]
    assert rows[1]["raw"] == "sep=;\ntimestamp;message_id;event\n2025-06-01;m2"
    # A person repairs it and loads it as it stands.
    for bad, good in [(rows[1]["raw"], rows[1]["raw"] + ";e"), (rows[2]["raw"], rows[2]["raw"].replace("soon", "2025-06-01"))]:
        assert bad != good
        (row,) = read_bytes(tmp_path, "mended.tsv", good, "canonical", tenant="acme")
        assert (row["reason"], row["event"]) == (None, "e")


def test_bytes_that_are_no_text_are_kept_with_the_header(tmp_path: Path) -> None:
    rows = read_bytes(tmp_path, "a.csv", HEADER.encode() + b"\nm1,\xff,2025-06-01,,\n", "canonical")
    assert rows[0]["reason"] == "not_utf8"
    kept = base64.b64decode(rows[0]["raw"].removeprefix("base64:"))
    assert kept == b"sep=,\n" + HEADER.encode() + b"\nm1,\xff,2025-06-01,,"


def test_a_column_declared_since_is_empty_in_what_was_kept(tmp_path: Path) -> None:
    declared = "format: table\ndescription: d\ntwin_lookback: 0 days\ncolumns: {id: text, placed: timestamp}\n"
    declared += "fields: {message_id: id, event: \"'e'\", timestamp: placed}\n"
    path = tmp_path / "orders.yaml"
    path.write_text(declared)
    rows = read_bytes(tmp_path, "a.csv", "id,placed\n1,soon\n2\n", load_source(path), tenant="acme")
    path.write_text(declared.replace("placed: timestamp}", "placed: timestamp, more: text}"))
    assert [row["reason"] for row in reread(rows, load_source(path))] == ["wrong_type:placed", "malformed_csv"]


# One column of each type that other writers use, with values that fit nowhere among those that fit.
TYPED: dict[str, pa.Array] = {
    "text": pa.array(["acme", "", " 5 ", '{"a": 1}', "{bad", "null", '"x"', '{"a": NaN}', "2025-06-01", None]),
    "dictionary": pa.array(["track", "x", "x", None]).dictionary_encode(),
    "bytes": pa.array([b"acme", b"\xff\x00", b"", b"{}", None], pa.binary()),
    "integer": pa.array([0, -1, 2**63 - 1, None]),
    "unsigned": pa.array([0, 2**64 - 1, None], pa.uint64()),
    "double": pa.array([1.0, 1.5, 1e18, 1e300, 0.1 + 0.2, math.nan, -math.inf, None]),
    "float": pa.array([1.1, 1e15, math.nan, None], pa.float32()),
    "decimal": pa.array([Decimal("12345678901234567890.12345"), Decimal("0.00005"), None], pa.decimal128(38, 10)),
    "boolean": pa.array([True, False, None]),
    "date": pa.array([date(2025, 6, 1), None]),
    "any date": pa.array([2**31 - 1, -(2**31), 2_932_897], pa.int32()).cast(pa.date32()),
    "time": pa.array([3600, None], pa.int32()).cast(pa.time32("s")),
    **{
        f"timestamp {unit}": pa.array([0, 1_748_772_000_123_456, 2**63 - 1, -(2**63) + 1, None]).cast(pa.timestamp(unit, zone))
        for unit, zone in [("ms", None), ("us", None), ("ns", None), ("us", "Europe/Berlin")]
    },
    "list": pa.array([[1, None], [], None]),
    "struct": pa.array([{"a": "b", "c": None}, {"a": "", "c": math.nan}, None]),
    "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
    "json": pa.array(['{"a":  1}', "[1]", '"x"', "5", "null", None]).cast(pa.json_()),
    "nothing": pa.nulls(2),
}  # fmt: skip


@pytest.mark.parametrize("kind", TYPED)
def test_parquet_of_any_type_is_judged_alike_again(tmp_path: Path, kind: str) -> None:
    values = TYPED[kind]
    names = ("user_id", "received_at", "properties", "revenue", "quantity", "MORE")
    # Each value alone in each column, so that no fault hides another.
    columns = {
        name: pa.concat_arrays([values if other == name else pa.nulls(len(values), values.type) for other in names])
        for name in names
    }
    # The same columns in another case.
    healthy = {"MESSAGE_ID": "m1", "event": "e", "Timestamp": "2025-06-01 10:00:00"}
    rows = len(values) * len(names)
    pq.write_table(pa.table({**{name: [value] * rows for name, value in healthy.items()}, **columns}), tmp_path / "a.parquet")
    read_rows = read(tmp_path / "a.parquet", "canonical", tenant="acme")
    assert len(read_rows) == rows
    alike_again(read_rows, "canonical", tenant="acme")


def test_a_replay_without_a_fix_changes_nothing(line: Line, tmp_path: Path) -> None:
    good = an_event(timestamp="2026-03-10")
    text = lines(good, {**good, "message_id": "\t"}, {**good, "tenant_id": "nobody"}) + "base64:e30=\n{bad\r\r\n[1]\n"
    (tmp_path / "a.ndjson").write_bytes(text.encode() + b"\xff\n")
    header = "tenant_id," + HEADER
    short, unknown, late = "acme,m1,e,2026-03-10", "nobody,m2,e,2026-03-10,,", "acme,m3,e,soon,,"
    text = "\n".join([header, short, unknown, late, "base64:e30=\r\r", "acme,m4,e,2026-03-10,[1],"])
    (tmp_path / "a.csv").write_bytes(text.encode() + b"\n\xff\n")
    times = pa.array(["2026-03-10", "soon", "2026-03-10"])
    records: dict[str, Any] = {"Tenant_Id": ["acme", "acme", "nobody"], "message_id": [b"\xff", b"m", b"m"], "event": ["e"] * 3}
    pq.write_table(pa.table({**records, "timestamp": times}), tmp_path / "a.parquet")
    for path, rejected in [("a.ndjson", 6), ("a.csv", 6), ("a.parquet", 3)]:
        report = line.load(tmp_path / path)
        assert (report.rejected, report.received) == (rejected, rejected + report.events)
    before = line.rows(REJECTED)
    (again,) = line.pipeline.replay_rejected(line.con, line.now, reason=None, source=None, tenant=None, dry_run=False)
    assert (again.received, again.rejected) == (15, 15)
    reasons = [row["reason"] for row in line.dicts(REJECTED)]
    assert again.rejected_by_reason == {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    assert line.rows(REJECTED) == before


def test_what_was_rejected_for_its_tenant_alone_is_accepted_once_it_is_declared(line: Line, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f'tenant_id,{HEADER}\nnew,m1,"two\nlines",2026-03-10,,\nnew,m2\n')
    assert line.load(tmp_path / "a.csv").rejected_by_reason == {"malformed_csv": 1, "unknown_tenant": 1}
    line.pipeline.intake.tenants = ("acme", "new")
    (again,) = line.pipeline.replay_rejected(line.con, line.now, reason=None, source=None, tenant=None, dry_run=False)
    assert (again.events, again.rejected_by_reason) == (1, {"malformed_csv": 1})
    assert [row["reason"] for row in line.dicts(REJECTED)] == ["malformed_csv"]
    assert line.keys() == [("new", "m1")]
