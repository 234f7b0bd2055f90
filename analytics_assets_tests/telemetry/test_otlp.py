"""What a real collector of OpenTelemetry takes from us and passes on, read with OpenTelemetry's own definitions."""

import gzip
import os
import socket
import subprocess
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import pytest
import rotel
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from analytics_assets.settings import UserError
from analytics_assets.telemetry.otlp import Sent, export
from analytics_assets_tests.builders import NOON
from analytics_assets_tests.telemetry.test_report import a_step
from analytics_assets_tests.telemetry.test_review import UNTIL, asked, keep

STEPS = [
    a_step("run-1", cpu_seconds=2.0, bytes_read=5, tenant="acme"),
    a_step("run-2", day=1, outcome="out_of_memory", error_class="OutOfMemoryException", lower_bound=True),
    a_step("run-2", day=1.05, attempt=2, cpu_seconds=3.0),
    a_step("run-3", day=2, outcome="killed", wall_seconds=None, cpu_seconds=None),
]


@dataclass
class Backend:
    """A server to which the collector passes on what it took."""

    server: ThreadingHTTPServer
    received: list[tuple[str, bytes]] = field(default_factory=list)
    status: int = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def spans(self) -> dict[tuple[str, str], Any]:
        """By run and name, with the attempt of a step behind it."""
        found = {}
        for path, body in self.received:
            if path == "/v1/traces":
                for one in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for span in (span for scope in one.scope_spans for span in scope.spans):
                        about = attributes(span)
                        attempt = about.get("cicd.pipeline.task.run.id", "/").rpartition("/")[2]
                        found[about["cicd.pipeline.run.id"], f"{span.name} {attempt}".strip()] = span
        return found

    def metrics(self) -> dict[str, Any]:
        return {
            metric.name: metric
            for path, body in self.received if path == "/v1/metrics"
            for one in ExportMetricsServiceRequest.FromString(body).resource_metrics
            for scope in one.scope_metrics for metric in scope.metrics
        }  # fmt: skip


@pytest.fixture
def backend() -> Iterator[Backend]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            backend.received.append((self.path, gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body))
            self.send_response(backend.status)
            self.send_header("content-type", "application/x-protobuf")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        backend = Backend(server)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield backend
        server.shutdown()
        thread.join()


@contextmanager
def a_collector(folder: Path, backend: Backend) -> Iterator[str]:
    """Rotel, which passes all on to the backend before it ends; gives its address."""
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(f"127.0.0.1:{free.getsockname()[1]}")
    program, options = Path(rotel.__file__).with_name("rotel-agent"), {
        "otlp-http-endpoint": ports[0], "otlp-grpc-endpoint": ports[1], "exporter": "otlp", "otlp-exporter-protocol": "http",
        "otlp-exporter-endpoint": backend.url, "pid-file": str(folder / "pid"), "log-file": str(folder / "log"),
    }  # fmt: skip
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    # It asks for the library of the Python for which it was built, beside which it is installed.
    found = {**os.environ, "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR") or ""}
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen([program, "start", *arguments], env=found, stdout=said, stderr=said)
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", int(ports[0].split(":")[1]))).close()
                    break
                except ConnectionRefusedError:
                    assert process.poll() is None, (folder / "said").read_text()
            yield f"http://{ports[0]}"
        finally:
            process.terminate()
            process.wait()


def attributes(told: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in told.attributes}


def test_a_collector_gets_every_run_and_step_and_the_sums_of_all(tmp_path: Path, backend: Backend) -> None:
    with a_collector(tmp_path, backend) as url, duckdb.connect() as con:
        selects = keep(con, STEPS, [asked(1), asked(2, outcome="failure", error_class="BinderException", rows=None)])
        # The first run is too old for a span, and counts in the sums.
        assert export(con, selects, url, since=NOON + timedelta(hours=1), now=UNTIL) == Sent(2, 3, 9, 14)
    spans = backend.spans()
    assert spans.keys() == {
        ("run-2", "RUN refresh"), ("run-2", "sessions 1"), ("run-2", "sessions 2"), ("run-3", "RUN refresh"),
        ("run-3", "sessions 1"),
    }  # fmt: skip
    run, step = spans["run-2", "RUN refresh"], spans["run-2", "sessions 1"]
    assert (step.parent_span_id, step.trace_id) == (run.span_id, run.trace_id)
    assert len({span.span_id for span in spans.values()}) == 5 and len({span.trace_id for span in spans.values()}) == 2
    began = (NOON + timedelta(days=1)).replace(tzinfo=UTC).timestamp()
    assert run.start_time_unix_nano == step.start_time_unix_nano == began * 1e9
    assert step.end_time_unix_nano - step.start_time_unix_nano == 3600 * 10**9
    about = attributes(step)
    assert about["cicd.pipeline.task.name"] == "sessions" and about["cicd.pipeline.name"] == "refresh"
    assert (about["cicd.pipeline.task.run.result"], about["error.type"]) == ("failure", "OutOfMemoryException")
    assert (about["analytics.step.lower_bound"], about["analytics.step.peak_memory_bytes"]) == (True, 300)
    # The second attempt succeeded, and so did the run; of the other the process is gone.
    assert attributes(run)["cicd.pipeline.result"] == "success" and "error.type" not in attributes(run)
    killed = attributes(spans["run-3", "RUN refresh"])
    assert (killed["cicd.pipeline.result"], killed["error.type"]) == ("error", "_OTHER")
    sums = {
        name: {tuple(attributes(point).values()): point.as_double for point in metric.sum.data_points}
        for name, metric in backend.metrics().items() if metric.HasField("sum")
    }  # fmt: skip
    assert sums["process.cpu.time"] == {("refresh", "sessions"): 6.5}
    assert sums["cicd.pipeline.run.errors"] == {("refresh", "OutOfMemoryException"): 1.0, ("refresh", "_OTHER"): 1.0}
    assert sums["process.disk.io"] == {("refresh", "sessions", "read"): 5.0}
    ((cost,),) = con_cost(STEPS)
    assert sum(sums["analytics.cost"].values()) == pytest.approx(cost)
    ran = {tuple(attributes(point).values()): point.count for point in
           backend.metrics()["cicd.pipeline.run.duration"].histogram.data_points}  # fmt: skip
    assert ran == {
        ("refresh", "executing", "success"): 2,
        ("refresh", "executing", "error", "_OTHER"): 1,
        ("refresh", "pending"): 3,
    }
    asked_for = backend.metrics()["db.client.operation.duration"].histogram.data_points
    assert sorted(attributes(point).get("error.type", "") for point in asked_for) == ["", "BinderException"]


def con_cost(steps: Any) -> list[tuple[float]]:
    with duckdb.connect() as con:
        keep(con, steps, [asked(1), asked(2)])
        return con.execute("select sum(cost)::double from unit_costs").fetchall()


def test_the_same_run_sent_again_has_the_same_ids(backend: Backend) -> None:
    with duckdb.connect() as con:
        selects = keep(con, STEPS, [])
        for _ in range(2):
            export(con, selects, backend.url, since=NOON, now=UNTIL)
    assert len(backend.received) == 4 and len(backend.spans()) == 7
    traces = [body for path, body in backend.received if path == "/v1/traces"]
    assert traces[0] == traces[1]


def test_a_collector_that_refuses_is_told_in_one_line(backend: Backend) -> None:
    backend.status = 401
    with duckdb.connect() as con, pytest.raises(UserError) as error:
        export(con, keep(con, STEPS, []), backend.url, since=NOON, now=UNTIL)
    assert str(error.value) == (
        f"the collector at {backend.url} did not take all of it: Failed to export spans batch code: 401, reason: Unauthorized"
    )


def test_of_nothing_nothing_is_sent(backend: Backend) -> None:
    with duckdb.connect() as con:
        assert export(con, keep(con, [], []), backend.url, since=NOON, now=UNTIL) == Sent(0, 0, 0, 0)
    assert backend.received == []
