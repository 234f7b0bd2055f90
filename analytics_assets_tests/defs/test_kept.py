"""A child that is kept running: started again when it ends, later and later where it fails at once."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from analytics_assets.defs.kept import Kept


class Nursery:
    """Real children that do what they are told, under a clock of our own."""

    def __init__(self) -> None:
        self.now, self.said = 0.0, list[str]()
        self.children: list[subprocess.Popen[bytes]] = []
        self.code = "import time; time.sleep(600)"
        self.kept = Kept("the child", self.start, self.said.append, clock=lambda: self.now)

    def start(self) -> "subprocess.Popen[bytes]":
        # Tests in the background ignore Ctrl-C, with which Dagster ignores SIGTERM too; children would inherit that.
        command = [sys.executable, "-S", "-c", self.code]
        self.children.append(subprocess.Popen(command, preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL)))
        return self.children[-1]

    def ends_after(self, seconds: float) -> None:
        """The newest child ends by itself, so long after its start."""
        self.children[-1].wait(60)
        self.now += seconds
        self.kept.look()


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    for child in nursery.children:
        child.kill()
        child.wait()


def test_the_first_look_starts_it_and_more_looks_do_not(nursery: Nursery) -> None:
    for _ in range(3):
        nursery.kept.look()
    assert len(nursery.children) == 1


def test_one_that_fails_at_its_start_is_started_again_after_pauses_that_grow_to_a_minute(nursery: Nursery) -> None:
    nursery.code = "raise SystemExit(3)"
    pauses = []
    for number in range(8):
        nursery.kept.look()
        assert len(nursery.children) == number + 1
        nursery.ends_after(0)
        began = nursery.now
        while len(nursery.children) == number + 1:
            nursery.now += 0.5
            nursery.kept.look()
        pauses.append(nursery.now - began)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert nursery.said[:2] == [f"the child ended (exit code 3); it is started again in {pause} s" for pause in (1, 2)]


def test_one_that_ends_well_after_its_time_is_followed_at_once_and_in_silence(nursery: Nursery) -> None:
    nursery.code = ""
    nursery.kept.look()
    nursery.ends_after(3600)
    assert (len(nursery.children), nursery.said) == (2, [])


def test_one_that_is_killed_after_its_time_is_started_again_after_the_first_pause(nursery: Nursery) -> None:
    nursery.kept.look()
    nursery.children[0].kill()
    nursery.ends_after(3600)
    assert nursery.said == ["the child ended (signal 9); it is started again in 1 s"]


def test_the_end_is_asked_for(nursery: Nursery) -> None:
    nursery.kept.look()
    nursery.kept.ask_to_end()
    nursery.kept.end()
    assert nursery.children[0].returncode == -signal.SIGTERM


def test_one_that_does_not_listen_is_killed_when_patience_ends(nursery: Nursery) -> None:
    nursery.code = "import signal, sys, time; signal.signal(15, lambda *_: None); print(flush=True); time.sleep(600)"
    nursery.kept.look()
    ticks = iter(range(0, 1000, 6))
    nursery.kept._clock = lambda: float(next(ticks))
    nursery.kept.end()
    assert nursery.children[0].returncode in (-signal.SIGTERM, -signal.SIGKILL)
