"""What steps and queries took, sent to a collector of OpenTelemetry (OTLP over HTTP): runs and steps as spans, sums as metrics.

Names are those of OpenTelemetry's semantic conventions where they have one: `cicd.pipeline.*` for runs and steps, `process.*`
for what a process took, `db.client.*` for queries; what has none is called `analytics.*`. What is sent again has the same ids
and times. Headers, certificates and timeouts are read from the environment (OTEL_EXPORTER_OTLP_*), where secrets belong.
"""

import hashlib
import logging
import socket
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import duckdb

from analytics_assets.settings import UserError
from analytics_assets.telemetry.tables import Outcome, StepTelemetry
from analytics_assets.warehouse.spec import literal

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import Metric, MetricsData
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

_SCOPE = "analytics_assets.telemetry"
# Spans in one request: collectors refuse requests of more than some MiB.
_SPANS = 1000
# Upper bounds of a histogram, in seconds, and in rows.
_SECONDS = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
_ROWS = (1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0)
_RESULTS: Mapping[Outcome, str] = {
    "success": "success", "failure": "failure", "out_of_memory": "failure", "timeout": "timeout", "cancelled": "cancellation",
    "killed": "error",
}  # fmt: skip
_WORST = ("error", "failure", "timeout", "cancellation", "success")
_OTHER = "_OTHER"
# What of a step has no name in the conventions, and is told under its own.
_OWN = (
    "attempt", "outcome", "lower_bound", "queue_seconds", "cpu_seconds", "peak_memory_bytes", "shared_process", "bytes_read",
    "bytes_written", "bytes_spilled", "rows_read", "rows_written", "code_version", "memory_limit_bytes", "threads",
    "config_source", "tenant", "partition",
)  # fmt: skip

Attributes = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """What a collector took."""

    runs: int
    steps: int
    metrics: int
    points: int


def export(
    con: duckdb.DuckDBPyConnection, selects: Mapping[str, str], url: str, *, since: datetime, now: datetime
) -> Sent:  # fmt: skip
    """Send the runs that began after `since`, and the sums of all that is known up to `now` (both UTC).

    `selects` are SELECTs of `step_telemetry`, `unit_costs` and `query_log`. Raises UserError if the collector does not take it.
    """
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics.export import MetricExportResult
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExportResult

    base = _checked(url)
    resource = Resource.create({"service.name": "analytics_assets"})
    steps = _steps(con, selects["step_telemetry"], since)
    with _told(url):
        spans = list(_spans(steps, resource))
        traces = OTLPSpanExporter(f"{base}/v1/traces")
        for begin in range(0, len(spans), _SPANS):
            if traces.export(spans[begin : begin + _SPANS]) is not SpanExportResult.SUCCESS:
                raise _Untaken
        sums = list(_metrics(con, selects, now))
        if sums and OTLPMetricExporter(f"{base}/v1/metrics").export(_data(sums, resource)) is not MetricExportResult.SUCCESS:
            raise _Untaken
    runs = len({step.run_id for step in steps})
    return Sent(runs, len(steps), len(sums), sum(len(metric.data.data_points) for metric in sums))


class _Untaken(Exception):
    """The collector did not take a request; the library has logged why."""


def _checked(url: str) -> str:
    try:
        parts, valid = urlsplit(url), urlsplit(url).port != 0
    except ValueError:
        parts, valid = urlsplit(""), False
    if not valid or parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError("name a collector as http://HOST:PORT or https://HOST:PORT; the port for OTLP over HTTP is mostly 4318")
    if parts.username or parts.password:
        raise UserError("a name or password does not belong into the address; put it into OTEL_EXPORTER_OTLP_HEADERS")
    return url.rstrip("/")


@contextmanager
def _told(url: str) -> Iterator[None]:
    """One sentence for what the library logs in several."""
    said: list[str] = []

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    log, handler = logging.getLogger("opentelemetry"), Said()
    before = log.propagate
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    except _Untaken:
        if not _listens(url):
            raise UserError(f"no collector listens at {url}; start it, or correct the address") from None
        why = next((line for line in said if "Transient" in line), said[-1] if said else "it said nothing")
        raise UserError(f"the collector at {url} did not take all of it: {why[:300]}") from None
    finally:
        log.removeHandler(handler)
        log.propagate = before


def _listens(url: str) -> bool:
    """The library tells a connection that is refused from one that takes too long only while it tries again."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)), 2).close()
    except OSError:
        return False
    return True


# Spans


def _steps(con: duckdb.DuckDBPyConnection, select: str, since: datetime) -> list[StepTelemetry]:
    """All attempts of the runs that began after `since`, run by run."""
    rows = con.execute(
        f"with steps as ({select}) select * from steps where run_id in (select run_id from steps group by run_id "
        f"having min(started_at) >= timestamp {literal(str(since))}) order by run_id, started_at, step, attempt"
    )
    names = [column[0] for column in rows.description or []]
    return [StepTelemetry(**dict(zip(names, row, strict=True))) for row in rows.fetchall()]


def _spans(steps: Iterable[StepTelemetry], resource: "Resource") -> Iterator["ReadableSpan"]:
    """A span a run, and below it one an attempt of a step.

    Made as they ended, and not through a tracer: its sampling and limits are for what happens now.
    """
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    by_run: dict[str, list[StepTelemetry]] = {}
    for step in steps:
        by_run.setdefault(step.run_id, []).append(step)
    scope, sampled = InstrumentationScope(_SCOPE), TraceFlags(TraceFlags.SAMPLED)

    def context(run: str, *within: object) -> SpanContext:
        return SpanContext(_id(16, run), _id(8, run, *within), is_remote=False, trace_flags=sampled)

    def status(result: str) -> Status:
        return Status(StatusCode.ERROR if result in ("failure", "error") else StatusCode.UNSET)

    for run, own in by_run.items():
        result, error = _result_of(own)
        about = {"cicd.pipeline.name": own[0].job, "cicd.pipeline.run.id": run}
        yield ReadableSpan(
            f"RUN {own[0].job}", context(run), None, resource,
            {**about, "cicd.pipeline.action.name": "RUN", "cicd.pipeline.result": result, **error},
            kind=SpanKind.SERVER, status=status(result), instrumentation_scope=scope,
            start_time=_nanoseconds(min(step.started_at for step in own)), end_time=max(map(_end, own)),
        )  # fmt: skip
        for step in own:
            result = _RESULTS[step.outcome]
            told = {f"analytics.step.{name}": getattr(step, name) for name in _OWN}
            yield ReadableSpan(
                step.step, context(run, step.step, step.attempt), context(run), resource,
                {
                    **about, "cicd.pipeline.task.name": step.step, "cicd.pipeline.task.run.id": f"{step.step}/{step.attempt}",
                    "cicd.pipeline.task.run.result": result, **_error(result, step.error_class),
                    **{name: value for name, value in told.items() if value is not None},
                },
                kind=SpanKind.INTERNAL, status=status(result), instrumentation_scope=scope,
                start_time=_nanoseconds(step.started_at), end_time=_end(step),
            )  # fmt: skip


def _id(size: int, *names: object) -> int:
    """An id of so many bytes that is the same whenever it is asked for."""
    return int.from_bytes(hashlib.blake2b("\0".join(map(str, names)).encode(), digest_size=size).digest(), "big")


def _result_of(steps: Sequence[StepTelemetry]) -> tuple[str, Attributes]:
    """What became of a run, by the last attempt of each step: the worst of them."""
    last = {step.step: step for step in sorted(steps, key=lambda step: step.attempt)}
    worst = min(last.values(), key=lambda step: _WORST.index(_RESULTS[step.outcome]))
    result = _RESULTS[worst.outcome]
    return result, _error(result, worst.error_class)


def _error(result: str, error_class: str | None) -> Attributes:
    return {"error.type": error_class or _OTHER} if result in ("failure", "error") else {}


def _nanoseconds(moment: datetime) -> int:
    return (moment.replace(tzinfo=UTC) - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1) * 1000


def _end(step: StepTelemetry) -> int:
    return _nanoseconds(step.started_at) + int((step.wall_seconds or 0) * 1e9)


# Metrics


def _metrics(con: duckdb.DuckDBPyConnection, selects: Mapping[str, str], now: datetime) -> Iterator["Metric"]:
    """Every metric that has a point: sums and distributions over all that is known, newest values."""
    from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, Sum
    from opentelemetry.sdk.metrics.export import NumberDataPoint as Point

    steps, costs, asked = (f"({selects[name]})" for name in ("step_telemetry", "unit_costs", "query_log"))
    first = f"select min(t) from (select started_at as t from {steps} union all select asked_at from {asked})"
    ((began,),) = con.execute(first).fetchall()
    if began is None:
        return
    start, end = _nanoseconds(began), max(_nanoseconds(now), _nanoseconds(began))
    since_ever = AggregationTemporality.CUMULATIVE

    def points(query: str, *names: str) -> list[Point]:
        rows = con.execute(query).fetchall()
        return [Point(_attributes(names, row), start, end, float(row[-1])) for row in rows if row[-1] is not None]

    def histogram(query: str, bounds: Sequence[float], *names: str) -> Histogram:
        seen: dict[tuple[Any, ...], list[float]] = {}
        for row in con.execute(query).fetchall():
            seen.setdefault(row[:-1], []).append(row[-1])
        found = []
        for about, values in seen.items():
            counts = [0] * (len(bounds) + 1)
            for value in values:
                counts[bisect_left(bounds, value)] += 1
            found.append(
                HistogramDataPoint(
                    _attributes(names, about), start, end, len(values), sum(values), counts, bounds, min(values), max(values)
                )
            )
        return Histogram(found, since_ever)

    job, task = "cicd.pipeline.name", "cicd.pipeline.task.name"
    results = "".join(f"when {literal(outcome)} then {literal(result)} " for outcome, result in _RESULTS.items())
    ends = (
        f"select run_id, job, step, case arg_max(outcome, attempt) {results} end as result, "
        "arg_max(error_class, attempt) as e, "
        "min(started_at) as began, max(started_at + to_microseconds((coalesce(wall_seconds, 0) * 1e6)::bigint)) as ended, "
        f"max(queue_seconds) as waited from {steps} group by all"
    )
    worst = f"list_position({list(_WORST)!r}, result)"
    runs = (
        f"select any_value(job) as job, arg_min(result, {worst}) as result, arg_min(coalesce(e, {literal(_OTHER)}), {worst}) "
        f"as e, epoch(max(ended) - min(began)) as seconds, max(waited) as waited from ({ends}) group by run_id"
    )
    executing = (
        "select job, 'executing', result, case when result in ('failure', 'error') then e end, seconds "
        f"from ({runs}) union all select job, 'pending', null, null, waited from ({runs}) where waited is not null"
    )
    yield Metric(
        "cicd.pipeline.run.duration", "Seconds of runs, while they waited and while they ran.", "s",
        histogram(executing, _SECONDS, job, "cicd.pipeline.run.state", "cicd.pipeline.result", "error.type"),
    )  # fmt: skip

    def counter(name: str, told: str, unit: str, query: str, *names: str) -> Metric:
        return Metric(name, told, unit, Sum(points(query, *names), since_ever, is_monotonic=True))

    def summed(value: str) -> str:
        return f"select job, step, sum({value}) from {steps} group by all order by all"

    told = [
        counter(
            "cicd.pipeline.run.errors", "Attempts of steps that failed.", "{error}",
            f"select job, coalesce(error_class, {literal(_OTHER)}), count(*) from {steps} "
            "where outcome not in ('success', 'cancelled') group by all order by all", job, "error.type",
        ),
        counter("process.cpu.time", "Processor seconds of the attempts of a step.", "s", summed("cpu_seconds"), job, task),
        counter(
            "process.disk.io", "Bytes that processes read (also from the page cache) and wrote.", "By",
            f"select job, step, 'read', sum(bytes_read) from {steps} group by all union all "
            f"select job, step, 'write', sum(bytes_written) from {steps} group by all order by all",
            job, task, "disk.io.direction",
        ),
        counter("analytics.step.rows_written", "Rows written to tables.", "{row}", summed("rows_written"), job, task),
        counter(
            "analytics.cost", "What steps and queries cost, at declared prices.", "{currency}",
            f"select job, coalesce(unit, 'step'), currency, basis, sum(cost) from {costs} group by all order by all",
            job, "analytics.cost.unit", "analytics.cost.currency", "analytics.cost.basis",
        ),
        Metric(
            "analytics.step.memory.peak", "Most memory of the newest attempt that was measured.", "By",
            Gauge(points(
                f"select job, step, arg_max(peak_memory_bytes, started_at) from {steps} group by all order by all", job, task
            )),
        ),
        Metric(
            "db.client.operation.duration", "Seconds of queries of the published file.", "s",
            histogram(
                f"select 'duckdb', 'analytics', command, error_class, seconds from {asked}", _SECONDS,
                "db.system.name", "db.namespace", "analytics.query.command", "error.type",
            ),
        ),
        Metric(
            "db.client.response.returned_rows", "Rows of their answers.", "{row}",
            histogram(
                f"select 'duckdb', 'analytics', command, rows from {asked} where rows is not null", _ROWS,
                "db.system.name", "db.namespace", "analytics.query.command",
            ),
        ),
    ]  # fmt: skip
    yield from (metric for metric in told if metric.data.data_points)


def _attributes(names: Sequence[str], values: Sequence[Any]) -> Attributes:
    return {name: value for name, value in zip(names, values, strict=False) if value is not None}


def _data(metrics: Sequence["Metric"], resource: "Resource") -> "MetricsData":
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(InstrumentationScope(_SCOPE), metrics, "")], "")])
