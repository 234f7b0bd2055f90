"""The UI as a person starts and stops it: none of its processes is left."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from analytics_assets.defs.ui import HOST
from analytics_assets.settings import PROJECT
from analytics_assets_tests.defs.home import a_data_home


def the_command(port: int) -> list[str]:
    return [sys.executable, "-m", "analytics_assets.cli", "dev", "--port", str(port)]


def test_a_signal_ends_every_process_of_the_ui(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    with a_data_home(tmp_path):
        command = subprocess.Popen(the_command(port), cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    assert command.stderr
    try:
        assert command.stderr.readline().startswith("starting Dagster; it loads what is dropped into ")
        assert command.stderr.readline() == f"http://{HOST}:{port}  (Ctrl-C ends it)\n"
        started = descendants(command.pid)
        assert len(started) >= 4, "Dagster, its UI, its daemon and the code"
    finally:
        command.send_signal(signal.SIGTERM)
        rest = command.communicate(timeout=60)[1]
    # A command of Dagster's that a signal meets while it still starts says so, once each.
    assert (command.returncode, rest.replace("\nAborted!\n", "")) == (0, "stopping\n")
    # What a killed process leaves ends by itself, a moment later.
    deadline = time.monotonic() + 30
    while (left := started & processes().keys()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with a_data_home(tmp_path), socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(the_command(port), cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    told = f"analytics: port {port} cannot be used (address already in use); choose another with `analytics dev --port`"
    assert done.stderr.splitlines()[-1] == told


def processes() -> dict[int, int]:
    """Parents of the processes that live."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True, env=os.environ)
    rows = (line.split() for line in listed.stdout.splitlines())
    return {int(pid): int(parent) for pid, parent, state in rows if not state.startswith("Z")}


def descendants(of: int) -> set[int]:
    parents = processes()
    found = {of}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {of}
