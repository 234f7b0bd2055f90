"""Whatever bytes arrive: the file is set aside whole with a reason, or every record that is not blank is a row."""

import gzip
import json
import tempfile
from collections.abc import Callable
from datetime import UTC
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_assets.events.schema import SOURCE_COLUMNS
from analytics_assets.sources.mapping import IDS
from analytics_assets.sources.readers import confirm_readable, slices
from analytics_assets.sources.text import MAX_LINE, UnreadableFile
from analytics_assets_tests.builders import Line, a_view, rows_of
from analytics_assets_tests.builders import an_event as a_record
from analytics_assets_tests.faults import ROUNDS
from analytics_assets_tests.sources.reading import (
    RECEIVED,
    SOURCES,
    a_call,
    alike_again,
    an_event,
    lines,
    read,
    read_bytes,
    reread,
    utc,
)

HEADER = "tenant_id,message_id,event,timestamp,properties,quantity\n"
GOOD = "acme,m1,e,2025-06-01,,\n"
hostile = settings(max_examples=12 * ROUNDS, deadline=None, suppress_health_check=list(HealthCheck))

# Text files as damage makes them: sound records beside fragments and any bytes.
FRAGMENTS = st.one_of(
    st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"")),
    st.sampled_from([b"", b" ", b"\r", b'"', b'a,"b', b'"a"",', b'{"batch":[{},1]}', b"\0", b"\xef\xbb\xbf"]),
    st.sampled_from([lines(an_event()), lines(a_call()), GOOD, "[" * 200, "{", "NaN", "9" * 400]).map(
        lambda text: text.strip().encode()
    ),
)
TEXTS = st.lists(FRAGMENTS, max_size=8).map(b"\n".join)


def attempt(name: str, data: bytes, source: str, **options: Any) -> list[dict[str, Any]] | None:
    """The rows, or None if the file was set aside with a reason in one line."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return read_bytes(Path(folder), name, data, source, **options)
        except UnreadableFile as error:
            assert str(error) and "\n" not in str(error)
            return None


def records(data: bytes) -> int:
    return sum(bool(line.strip()) for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"))


def test_what_counts_as_a_record() -> None:
    assert records(b"\xef\xbb\xbf\n{}\n \r\n\n{") == 2


@hostile
@given(TEXTS, st.sampled_from(["canonical", "online_retail"]))
def test_each_line_of_a_table_is_a_row(data: bytes, source: str) -> None:
    rows = attempt("any.ndjson", data, source, tenant="acme")
    assert rows is None or len(rows) == records(data)
    if rows:
        alike_again(rows, source, tenant="acme")


@hostile
@given(TEXTS)
def test_each_segment_line_is_a_row_or_a_batch(data: bytes) -> None:
    rows = attempt("any.json", data, "segment")
    if rows is not None:
        batches = sum(line.strip() == b'{"batch":[{},1]}' for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
        assert len(rows) == records(data) + batches
    if rows:
        alike_again(rows, "segment")


@hostile
@given(TEXTS)
def test_no_csv_line_is_lost(data: bytes) -> None:
    rows = attempt("any.csv", HEADER.encode() + data, "canonical")
    if rows is not None:
        count = records(HEADER.encode() + data) - 1
        assert len(rows) == count if b'"' not in data else len(rows) <= count
        sound = sum(line == GOOD.strip().encode() for line in data.split(b"\n"))
        # A sound line may be part of a quoted field, but then a quote stands around it.
        assert sum(row["message_id"] == "m1" for row in rows) >= (sound if b'"' not in data else 0)
        alike_again(rows, "canonical")


@hostile
@given(
    st.binary(max_size=300),
    st.sampled_from(["a.parquet", "a.csv", "a.tsv", "a.csv.gz", "a.ndjson.gz", "a.jsonl"]),
    st.sampled_from([bytes, gzip.compress, lambda data: b"PAR1" + data + b"PAR1", lambda data: HEADER.encode() + data]),
    st.sampled_from(sorted(SOURCES)),
)
def test_any_bytes_in_any_format(data: bytes, name: str, wrap: Callable[[bytes], bytes], source: str) -> None:
    attempt(name, wrap(data), source)


@hostile
@given(st.data())
def test_a_damaged_gzip_is_set_aside_or_whole(data: st.DataObject) -> None:
    packed = bytearray(gzip.compress(lines(*(an_event(message_id=str(number)) for number in range(50))).encode()))
    if data.draw(st.booleans()):
        packed = packed[: data.draw(st.integers(2, len(packed) - 1))]
    else:
        packed[data.draw(st.integers(2, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    rows = attempt("a.ndjson.gz", bytes(packed), "canonical")
    # Flips in the header's name and time fields change nothing.
    assert rows is None or [row["message_id"] for row in rows] == [str(number) for number in range(50)]


@pytest.mark.parametrize(
    ("name", "data", "part"),
    [
        ("a.xlsx", b"x", "ending '.xlsx'"),
        ("a.parquet.gz", b"x", "without .gz"),
        ("a.parquet", b"", "Parquet"),
        ("a.parquet", b"PAR1" + b"\0" * 100, "Parquet"),
        ("a.csv", b"PK\x03\x04....", "zip"),
        ("a.ndjson", lines(an_event()).encode("utf-16"), "UTF-16"),
        ("a.ndjson", lines(an_event()).encode("utf-16-le"), "UTF-16"),
        ("a.csv", bytes(range(32)) * 9, "binary"),
        ("a.csv", b"a,b\n1,2\n", "lacks the columns message_id, event, timestamp"),
        ("a.csv", b"message_id,event,timestamp,Event\n", "more than once"),
        ("a.csv", b"message_id,event,timestamp\r1,2,3\r", "carriage return"),
        ("a.csv", b"m\xe9ssage\n", "UTF-8"),
        ("a.csv", b"c," * 40_000 + b"\n1\n", "longer than 64 KiB"),
        ("a.ndjson.gz", gzip.compress(b"{}\n" * 99, mtime=0)[:-9], "ends early"),
        ("a.ndjson", b"x" * (MAX_LINE + 1), "longer than 16 MiB"),
        ("a.ndjson", b'{"event": "e"}\n{"event": "e", "ti', "cut off"),
        ("a.ndjson.gz", gzip.compress(b'{"event": "e"}\n{"event": "e", "pro', mtime=0), "cut off"),
        ("a.csv", b"message_id,event,timestamp\nm1,e,2025-06-01\nm2,e", "cut off"),
        ("a.csv", b'message_id,event,timestamp\nm1,e,2025-06-01\nm2,"two\nli', "cut off"),
        ("a.ndjson", b"\n" + b"x" * (MAX_LINE + 1) + b"\n{}", "longer than 16 MiB"),
    ],
)
def test_unreadable_files_say_why(tmp_path: Path, name: str, data: bytes, part: str) -> None:
    with pytest.raises(UnreadableFile, match=part):
        read_bytes(tmp_path, name, data, "canonical")


@pytest.mark.parametrize(
    ("name", "data", "records"),
    [
        ("a.ndjson", b'{"event": "e"}\nno json', 2),
        ("a.ndjson", b'{"event": "e"}\n{"event": bad}', 2),
        ("a.ndjson", b'{"event": "e"}\n{"event": "e", "ti\n', 2),
        ("a.csv", b"message_id,event,timestamp\nm1,e,2025-06-01,one too many", 1),
        ("a.csv", b"message_id,event,timestamp\nm1,e\n", 1),
        ("a.csv", b'message_id,event,timestamp\nm1,"two\nlines",2025-06-01', 1),
    ],
)
def test_a_last_record_that_is_only_wrong_costs_nothing_but_itself(
    tmp_path: Path, name: str, data: bytes, records: int
) -> None:
    assert len(read_bytes(tmp_path, name, data, "canonical")) == records


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    for name in ("no.csv", "no.parquet"):
        with pytest.raises(UnreadableFile):
            read(tmp_path / name, "canonical")


@pytest.mark.parametrize("name", ["a.ndjson", "a.csv", "a.ndjson.gz"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str) -> None:
    for data in (b"", b"\n \r\n\n", b"\xef\xbb\xbf"):
        assert read_bytes(tmp_path, name, data, "canonical") == []


def test_a_damaged_page_is_blamed_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with duckdb.connect() as con:
        con.execute(
            f"copy (select 'acme' as tenant_id, uuid()::varchar as message_id, 'e' as event, now()::timestamp as timestamp "
            f"from range(9000)) to '{path}'"
        )
    confirm_readable(path)
    data = bytearray(path.read_bytes())
    data[1000:9000] = b"\xff" * 8000
    path.write_bytes(data)
    with pytest.raises(UnreadableFile):
        confirm_readable(path)


def test_damaged_lines_keep_their_bytes(tmp_path: Path) -> None:
    rows = read_bytes(tmp_path, "a.ndjson", b"\xff{}\n" + lines(an_event()).encode(), "canonical")
    assert [(row["reason"], row["raw"]) for row in rows[:1]] == [("not_utf8", "base64:/3t9")]
    assert rows[1]["reason"] is None
    assert reread(rows, "canonical")[0]["reason"] == "not_utf8"


def test_an_unclosed_quote_costs_one_line(tmp_path: Path) -> None:
    bad = 'acme,m2,"unclosed,2025-06-01,,\n'
    text = HEADER + GOOD + bad + GOOD + 'acme,m3,"two\nlines",2025-06-01,,\n' + bad + GOOD
    rows = read_bytes(tmp_path, "a.csv", text, "canonical")
    assert [row["reason"] for row in rows] == [None, "malformed_csv", None, None, "malformed_csv", None]
    assert [row["raw"] for row in rows if row["reason"]] == ["sep=,\n" + HEADER + bad.strip()] * 2
    assert rows[3]["event"] == "two\nlines"
    assert [row["rn"] for row in rows] == [1, 2, 3, 4, 6, 7]


def test_very_many_unclosed_quotes_take_linear_time(tmp_path: Path) -> None:
    line = 'acme,m,"e,2025-06-01,,\n'
    rows = read_bytes(tmp_path, "a.csv", HEADER + (line + GOOD * 3) * 5000, "canonical")
    assert len(rows) == 20_000


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_header_tells_the_delimiter(tmp_path: Path, delimiter: str) -> None:
    text = (HEADER + GOOD).replace(",", delimiter)
    assert read_bytes(tmp_path, "a.csv", text, "canonical")[0]["message_id"] == "m1"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"message_id": 5}, None),
        ({"message_id": {}}, "wrong_type:message_id"),
        ({"timestamp": "soon"}, "wrong_type:timestamp"),
        ({"timestamp": "10000-01-01"}, "wrong_type:timestamp"),
        ({"timestamp": 1_700_000_000}, "wrong_type:timestamp"),
        ({"quantity": 1.5}, "wrong_type:quantity"),
        ({"quantity": "0x10"}, "wrong_type:quantity"),
        ({"revenue": 1e30}, "wrong_type:revenue"),
        ({"revenue": float("nan")}, "wrong_type:revenue"),
        ({"properties": {"a": float("nan")}}, "wrong_type:properties"),
        ({"properties": [1]}, "wrong_type:properties"),
        ({"properties": "text"}, "wrong_type:properties"),
        ({"properties": '{"a": 1}'}, None),
        ({"context": "{bad"}, "wrong_type:context"),
        ({"tenant_id": "globex"}, "tenant_mismatch"),
    ],
)
@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_reasons(tmp_path: Path, form: str, changes: dict[str, Any], reason: str | None) -> None:
    record = an_event(**changes)
    text = lines(record)
    if form == "csv":
        if changes == {"message_id": {}}:
            reason = None  # text in a cell is text
        # A tab is in none of the cells, so they need no quotes.
        cells = [value if isinstance(value, str) else json.dumps(value) for value in record.values()]
        text, form = "\t".join(record) + "\n" + "\t".join(cells) + "\n", "tsv"
    assert read_bytes(tmp_path, f"a.{form}", text, "canonical", tenant="acme")[0]["reason"] == reason


def test_text_without_a_zone_is_utc_and_offsets_count(tmp_path: Path) -> None:
    times = {"2025-06-01T10:00:00": 10, "2025-06-01 10:00:00Z": 10, "2025-06-01T10:00:00+02:00": 8}
    rows = read_bytes(tmp_path, "a.ndjson", lines(*(an_event(timestamp=time) for time in times)), "canonical")
    assert [row["timestamp"].hour for row in rows] == list(times.values())


BLANKS = ["", " ", "\t", "\v\n", "\u00a0", "\u3000", "\u200b\ufeff"]


@pytest.mark.parametrize("form", ["ndjson", "parquet"])
@pytest.mark.parametrize("blank", BLANKS)
def test_an_id_without_anything_to_see_is_missing(tmp_path: Path, form: str, blank: str) -> None:
    names = ("message_id", "user_id", "anonymous_id", "session_id", "tenant_id")
    records = [an_event(**{name: blank}) for name in names]
    path = tmp_path / f"a.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist([{**dict.fromkeys(names), **record} for record in records]), path)
    else:
        path.write_text(lines(*records))
    rows = read(path, "canonical", tenant="acme")
    # Without a tenant of its own a record belongs to the one that the file was sent for.
    assert [row[name] for name, row in zip(names, rows, strict=True)] == [None, None, None, None, "acme"]
    assert [row["reason"] for row in rows] == [None] * 5


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_other_ids_are_kept_to_the_letter(tmp_path: Path, form: str) -> None:
    text = lines(an_event(message_id=" m1\u00a0")) if form == "ndjson" else HEADER + GOOD.replace("m1", " m1\u00a0")
    assert read_bytes(tmp_path, f"a.{form}", text, "canonical")[0]["message_id"] == " m1\u00a0"


@pytest.mark.parametrize("form", ["ndjson", "csv", "parquet"])
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (0.1 + 0.2, "0.3000"),
        (1.23456, "1.2346"),
        (0.00005, "0.0001"),
        (-0.00005, "-0.0001"),
        (0.00004, "0.0000"),
        (1e13, "10000000000000.0000"),
        (1e14, None),
    ],
)
def test_money_has_four_decimals(tmp_path: Path, form: str, given: float, kept: str | None) -> None:
    path = tmp_path / f"a.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist([{**an_event(), "timestamp": utc(2025, 6, 1), "revenue": given}]), path)
    else:
        path.write_text(
            lines(an_event(revenue=given))
            if form == "ndjson"
            else f"message_id,event,timestamp,revenue\nm,e,2025-06-01,{given}\n"
        )
    (row,) = read(path, "canonical", tenant="acme")
    assert (row["revenue"], row["reason"]) == ((Decimal(kept), None) if kept else (None, "wrong_type:revenue"))


def test_control_characters_harm_nothing_on_the_way_to_the_reader(line: Line) -> None:
    odd = "a\0b\x01\x1b[31m\x7f\u202e'\"\n\t;--"
    texts = dict.fromkeys(("event", "user_id", "session_id", "campaign", "region", "product_id", "page_url", "page_title"), odd)
    line.load([a_record("m"), a_record("m\0"), a_record("m\0\0"), a_view("view", **texts, revenue=3, properties={odd: odd})])
    line.load([a_record("m\0"), a_record("identified", type="identify", user_id="u\0"), a_record(odd)])
    assert line.keys() == [("acme", key) for key in sorted([odd, "identified", "m", "m\0", "m\0\0", "view"])]
    line.rebuild()
    path = line.publish().path
    assert rows_of(path, "select count(*), count(distinct message_id) from events") == [(6, 6)]
    assert rows_of(path, "select message_id from events where message_id = 'm'") == [("m",)]
    assert rows_of(path, "select event, user_id, properties ->> '/' from events where message_id = 'view'")[0][:2] == (odd, odd)
    for table in ("sessions", "page_views", "users"):
        assert rows_of(path, f"select count(*) from {table} where user_id = chr(0) or contains(user_id, chr(0))") != [(0,)], (
            table
        )
    for table in ("events_daily", "events_hourly"):
        assert rows_of(
            path, f"select sum(events) from {table} where event = (select event from events where message_id = 'view')"
        ) == [(1,)]


def parquet(folder: Path, select: str, name: str = "a.parquet") -> Path:
    path = folder / name
    with duckdb.connect() as con:
        con.execute("copy (" + select + ") to '" + str(path).replace("'", "''") + "' (format parquet, row_group_size 2048)")
    return path


BASE = "select 'acme' as tenant_id, 'm' || i as message_id, 'e' as event, "


def nested(depth: int) -> str:
    """SQL for JSON text that deep."""
    return f"repeat('{{\"a\":', {depth}) || '1' || repeat('}}', {depth})"


def test_parquet_of_other_types_is_converted(tmp_path: Path) -> None:
    select = (
        "select 'acme'::blob as tenant_id, i::utinyint as message_id, 'e'::enum('e') as event, 2.0::float as quantity, "
        "timestamptz '2025-06-01 10:00:00+02' as timestamp, date '2025-06-02' as received_at, 1.5::double as revenue, "
        "{'a': 1} as properties, uuid '00000000-0000-0000-0000-000000000001' as session_id from range(2) t(i)"
    )
    row = read(parquet(tmp_path, select), "canonical")[1]
    assert row["reason"] is None
    assert (row["tenant_id"], row["message_id"], row["event"], row["quantity"]) == ("acme", "1", "e", 2)
    assert row["timestamp"] == utc(2025, 6, 1, 8) and row["received_at"] == utc(2025, 6, 2)
    assert row["properties"] == '{"a":1}' and row["revenue"] == Decimal("1.5")


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("i as timestamp", "wrong_type:timestamp"),
        ("timestamp '2025-06-01' as timestamp, 1.5 as quantity", "wrong_type:quantity"),
        ("timestamp '2025-06-01' as timestamp, 'nan'::double as revenue", "wrong_type:revenue"),
        ("timestamp '2025-06-01' as timestamp, '{bad' as properties", "wrong_type:properties"),
        ("timestamp '2025-06-01' as timestamp, ' [1]' as properties", "wrong_type:properties"),
        ("timestamp '2025-06-01' as timestamp, '{\"a\": -Infinity}' as context", "wrong_type:context"),
        (f"timestamp '2025-06-01' as timestamp, {nested(65)} as context", "wrong_type:context"),
        (f"timestamp '2025-06-01' as timestamp, {nested(64)} as context", None),
        ("timestamp '2025-06-01' as timestamp, ' {\"a\": 1}' as properties", None),
    ],
)
def test_parquet_of_wrong_values(tmp_path: Path, column: str, reason: str | None) -> None:
    rows = read(parquet(tmp_path, f"{BASE}{column} from range(3) t(i)"), "canonical")
    assert [row["reason"] for row in rows] == [reason] * 3
    assert [row["reason"] for row in reread(rows, "canonical")] == [reason] * 3


def test_slices_of_parquet_are_the_whole_and_numbered_alike(tmp_path: Path) -> None:
    path = parquet(tmp_path, f"{BASE} timestamp '2025-06-01' + i * interval 1 second as timestamp from range(9000) t(i)")
    assert read(path, "canonical", rows=1000) == read(path, "canonical")


@pytest.mark.parametrize("name", ["w[1]*?.parquet", "x'; drop table keys; --.parquet", "tenant_id=a.parquet", "~a b.parquet"])
def test_hostile_file_names(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "tenant_id=evil"
    folder.mkdir()
    path = parquet(folder, f"{BASE} timestamp '2025-06-01' as timestamp from range(1) t(i)", name)
    assert [row["tenant_id"] for row in read(path, "canonical")] == ["acme"]


def test_hostile_column_names(tmp_path: Path) -> None:
    names = ["rn", "__rn", "raw", "__raw", "reason", "__c0", "c0", "filename", "file_index", 'a"b', "a'b", "{}", "💥"]
    columns = ", ".join('1 as "' + name.replace('"', '""') + '"' for name in names)
    path = parquet(tmp_path, f"{BASE} timestamp '2025-06-01' as timestamp, {columns} from range(1) t(i)")
    row = read(path, "canonical")[0]
    assert row["reason"] is None and set(names) < set(json.loads(row["raw"]))


@pytest.mark.parametrize("source", ["canonical", "segment"])
@pytest.mark.parametrize("name", ["file_row_number", "File_Row_Number"])
def test_a_file_may_number_its_rows_itself(tmp_path: Path, name: str, source: str) -> None:
    record = {
        "canonical": "'m' || i as message_id, 'e' as event, timestamp '2025-06-01' as timestamp",
        "segment": "'track' as type, 'm' || i as messageId, 'u' as userId, 'e' as event, '2025-06-01' as timestamp",
    }
    path = parquet(tmp_path, f"select {record[source]}, 7 as {name} from range(5000) t(i)")
    rows = read(path, source, tenant="acme", rows=3000)
    assert [row["message_id"] for row in rows] == [f"m{i}" for i in range(5000)]
    assert {row["reason"] for row in rows} == {None}
    alike_again(rows[:3], source, tenant="acme")


def test_columns_that_differ_in_case_alone_are_told_apart(tmp_path: Path) -> None:
    names = ["tenant_id", "message_id", "event", "timestamp", "MESSAGE_ID"]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([["acme"], ["m1"], ["e"], ["2025-06-01"], ["other"]], names=names), path)
    rows = read(path, "canonical")
    assert [(row["message_id"], row["reason"]) for row in rows] == [("m1", None)]


@pytest.mark.parametrize("source", ["canonical", "segment"])
def test_a_parquet_file_without_rows_is_judged_by_its_columns(tmp_path: Path, source: str) -> None:
    names = {"canonical": ["message_id", "event", "timestamp"], "segment": ["type", "messageId"]}[source]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({name: pa.nulls(0, pa.string()) for name in names}), path)
    assert read(path, source) == []
    for fewer in ({}, {names[0]: pa.nulls(0, pa.string())}):
        pq.write_table(pa.table(fewer), path)
        with pytest.raises(UnreadableFile):
            read(path, source)


@pytest.mark.parametrize(
    "options", [{"use_deprecated_int96_timestamps": True}, {"coerce_timestamps": "us", "use_dictionary": True}]
)
def test_parquet_of_older_writers(tmp_path: Path, options: dict[str, Any]) -> None:
    times = pa.array([1_748_772_000_123_456_000], pa.timestamp("ns"))
    pq.write_table(pa.table({"message_id": ["m"], "event": ["e"], "timestamp": times}), tmp_path / "a.parquet", **options)
    assert read(tmp_path / "a.parquet", "canonical")[0]["timestamp"] == utc(2025, 6, 1, 10, 0, 0, 123456)


def test_the_relation_has_the_promised_shape(tmp_path: Path) -> None:
    files = [
        tmp_path / "a.ndjson",
        tmp_path / "b.ndjson",
        parquet(tmp_path, f"{BASE} now() as timestamp from range(1) t(i)"),
    ]
    files[0].write_text(lines(an_event()))
    files[1].write_text(lines(a_call()))
    expected = [
        ("rn", "BIGINT"),
        *((c.name, c.type) for c in SOURCE_COLUMNS),
        ("reason", "VARCHAR"),
        ("raw", "VARCHAR"),
    ]
    with duckdb.connect() as con:
        for path, source in zip(files, ("canonical", "segment", "canonical"), strict=True):
            for _ in slices(con, path, SOURCES[source], tenant="acme", received_at=RECEIVED.replace(tzinfo=UTC)):
                assert [row[:2] for row in con.execute("describe mapped").fetchall()] == expected
        assert con.execute("select count(*) from duckdb_tables()").fetchall() == [(0,)]


def test_right_types_are_passed_through(tmp_path: Path) -> None:
    """The hot path: but for the look at ids, no function, no filter and no window between the file and the event."""
    columns = ", ".join(
        "timestamp '2025-06-01' as timestamp" if c.name == "timestamp" else f"null::{c.type} as {c.name}"
        for c in SOURCE_COLUMNS
        if c.name not in ("tenant_id", "message_id", "event")
    )
    path = parquet(tmp_path, f"{BASE} {columns} from range(1) t(i)")
    names = ", ".join(c.name for c in SOURCE_COLUMNS if c.name not in ("type", "received_at", "properties", "context", *IDS))
    with duckdb.connect() as con:
        for _ in slices(con, path, SOURCES["canonical"], tenant=None, received_at=RECEIVED):
            plan = json.loads(con.execute(f"explain (format json) select {names} from mapped").fetchall()[0][1])
    found: list[str] = []

    def walk(node: dict[str, Any], visit: Callable[[dict[str, Any]], None]) -> None:
        visit(node)
        for child in node["children"]:
            walk(child, visit)

    walk(plan[0], lambda node: found.append(node["name"].strip()))
    assert found == ["READ_PARQUET"]
