"""Dagster's UI and daemon and the resident worker as child processes, none of which outlives the command that started them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from analytics_assets.defs.instance import configure
from analytics_assets.defs.kept import Kept
from analytics_assets.settings import PROJECT, Settings, UserError
from analytics_assets.warehouse.home import Home

HOST = "127.0.0.1"
# The first answer to an end, and how many seconds it has to work before the next one.
_ENDINGS = ((signal.SIGINT, 20.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
_LOOK_SECONDS = 0.5
_STOPPED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(settings: Settings, port: int, say: Callable[[str], None]) -> int:
    """Run UI and daemon until they end by themselves or a signal ends them; returns Dagster's exit code, 0 for a signal."""
    _check_free(port)
    folder = configure(Home(settings.home).dagster)
    for number in _STOPPED_BY:
        signal.signal(number, _interrupt)
    # A session of its own, so that a terminal's Ctrl-C comes to this process alone and each child is ended once.
    dagster = subprocess.Popen(
        _command(port), cwd=folder, env=_environment(settings), start_new_session=True, preexec_fn=_let_others_first
    )
    worker = Kept("the worker", lambda: _start_worker(settings), say)
    try:
        if _answers(dagster, port):
            say(f"http://{HOST}:{port}  (Ctrl-C ends it)")
        while dagster.poll() is None:
            worker.look()
            time.sleep(_LOOK_SECONDS)
        return dagster.returncode
    except KeyboardInterrupt:
        say("stopping")
        return 0
    finally:
        for number in _STOPPED_BY:
            signal.signal(number, signal.SIG_IGN)
        worker.ask_to_end()
        _end(dagster)
        worker.end()


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        # As the server binds: a port whose connections have just ended is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"port {port} cannot be used ({reason}); choose another with `analytics dev --port`") from None


def _command(port: int) -> list[str]:
    workspace = str(PROJECT / "workspace.yaml")
    quiet = ["--log-level", "warning", "--code-server-log-level", "warning"]
    return [sys.executable, "-m", "dagster", "dev", "-w", workspace, "-h", HOST, "-p", str(port), *quiet]


def _let_others_first() -> None:
    # Dagster and all its runs: the worker, which serves the strictest promise, goes first at the processors too.
    os.nice(10)


def _start_worker(settings: Settings) -> "subprocess.Popen[bytes]":
    # It watches its parent, since nothing can be told to a process whose parent was killed.
    command = [sys.executable, "-m", "analytics_assets.cli", "worker", "--parent", str(os.getpid())]
    return subprocess.Popen(command, cwd=PROJECT, env=_environment(settings), start_new_session=True)


def _environment(settings: Settings) -> dict[str, str]:
    return {
        **os.environ,
        "DAGSTER_HOME": str(Home(settings.home).dagster),
        "ANALYTICS_HOME": str(settings.home),
        "ANALYTICS_CONFIG": str(settings.config),
        # Dagster praises its newer command line, and says with every run that it may change how it names log handlers; what it
        # held when it is ended with force is cleaned up, and no news.
        "PYTHONWARNINGS": "ignore:Function `dev_command` is superseded,ignore:Handling yaml-defined logging,"
        "ignore:resource_tracker",
    }


def _answers(dagster: "subprocess.Popen[bytes]", port: int) -> bool:
    """Wait until the UI accepts connections; False if Dagster ended before."""
    while dagster.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return True
        time.sleep(0.2)
    return False


def _end(dagster: "subprocess.Popen[bytes]") -> None:
    """End Dagster and every process it started: as Ctrl-C does, then with more force."""
    for number, patience in _ENDINGS:
        if not _signalled(dagster, number):
            return
        until = time.monotonic() + patience
        while time.monotonic() < until and _signalled(dagster, 0):
            time.sleep(0.1)


def _signalled(dagster: "subprocess.Popen[bytes]", number: int) -> bool:
    """Send a signal to Dagster's processes (0: none, only look); False if there are none any more."""
    dagster.poll()  # a child that ended counts until it is asked
    try:
        os.killpg(dagster.pid, number)
    except ProcessLookupError:
        return False
    return True
