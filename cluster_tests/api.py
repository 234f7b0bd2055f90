"""The part of Kubernetes' API that dagster-k8s talks to, as a server on this machine: a job that is created is started here.

What runs is the container's own command with the container's own environment, as a process.
"""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

# A pod has these from its image.
_IMAGE = ("PATH", "HOME")


class Kubernetes(ThreadingHTTPServer):
    """Jobs as they were created, by name, with their processes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def create(self, job: dict[str, Any]) -> None:
        name, (container,) = job["metadata"]["name"], job["spec"]["template"]["spec"]["containers"]
        self.jobs[name] = job
        told = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        environment = {**{name: os.environ[name] for name in _IMAGE}, **told}
        self.running[name] = subprocess.Popen(container["args"], env=environment)

    def status(self, name: str) -> dict[str, Any]:
        code = self.running[name].poll()
        return {"active": 1} if code is None else {"succeeded": 1} if code == 0 else {"failed": 1}

    def end(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Of each job the container, in the order of their creation."""
        return [job["spec"]["template"]["spec"]["containers"][0] for job in self.jobs.values()]


class _Answer(BaseHTTPRequestHandler):
    server: Kubernetes

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.create(job)
        self._say(201, job)

    def do_GET(self) -> None:
        name = self.path.split("?")[0].removesuffix("/status").rsplit("/", 1)[-1]
        if name in self.server.jobs:
            self._say(200, {**self.server.jobs[name], "status": self.server.status(name)})
        else:
            self._say(404, {"kind": "Status", "code": 404, "message": f"no job {name}"})

    def _say(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """What was asked for stands in `jobs`."""


@contextmanager
def kubernetes() -> Iterator[Kubernetes]:
    """The server while it answers; every process that it started is ended with it."""
    with Kubernetes() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            server.end()


def kubeconfig(server: Kubernetes, path: Path) -> str:
    """The file by which clients find the server."""
    there = f"http://127.0.0.1:{server.server_address[1]}"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": there}}],
        "users": [{"name": "anybody", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "anybody"}}],
        "current-context": "here",
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)
