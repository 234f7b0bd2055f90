"""Memory that processes share: what goes together fits, nobody is overtaken for ever, and a killed holder holds nothing."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics_assets.settings import PROJECT
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.leases import Lease, NoRoom, leases, memory


class Stop(Exception):
    """The test has seen enough of somebody who waits."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_two_that_fit_together_go_together(home: Home) -> None:
    with memory(home, "one", 600, 1000, wait_seconds=0), memory(home, "two", 400, 1000, wait_seconds=0):
        assert leases(home) == [Lease("one", 600), Lease("two", 400)]
    assert leases(home) == []


def test_two_that_do_not_fit_go_one_after_the_other_with_a_reason(home: Home) -> None:
    first, heard = memory(home, "marts", 600, 1000, wait_seconds=0), list[str]()
    first.__enter__()

    def sleep(seconds: float) -> None:
        assert leases(home) == [Lease("marts", 600), Lease("sessions", 401)]
        first.__exit__(None, None, None)

    with memory(home, "sessions", 401, 1000, wait_seconds=60, waits=heard.append, sleep=sleep):
        assert leases(home) == [Lease("sessions", 401)]
    assert heard == ["waits for 401 MB of the 1,000 MB that steps share; before it: marts (600 MB)"]


def test_a_small_one_does_not_overtake_a_large_one_that_waits(home: Home) -> None:
    seen = []

    def sleep(seconds: float) -> None:
        with pytest.raises(NoRoom), memory(home, "small", 100, 1000, wait_seconds=0):
            pass
        seen.append(leases(home))
        raise Stop

    with memory(home, "running", 600, 1000, wait_seconds=0):
        with pytest.raises(Stop), memory(home, "large", 900, 1000, wait_seconds=60, sleep=sleep):
            pass
        # Nobody waits any more: it may.
        with memory(home, "small", 100, 1000, wait_seconds=0):
            pass
    assert seen == [[Lease("running", 600), Lease("large", 900)]]


def test_who_waits_too_long_is_told_for_whom(home: Home) -> None:
    with memory(home, "marts", 600, 1000, wait_seconds=0):
        with pytest.raises(NoRoom, match=r"500 of 1,000 MB were not free for 0 minutes: marts \(600 MB\)"):
            memory(home, "sessions", 500, 1000, wait_seconds=0).__enter__()
        assert leases(home) == [Lease("marts", 600)]


HOLDER = """
import sys, time
from pathlib import Path
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.leases import memory
with memory(Home(Path(sys.argv[1])), "other", 900, 1000, wait_seconds=0):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_holder_that_was_killed_holds_nothing(home: Home) -> None:
    command = [sys.executable, "-c", HOLDER, str(home.root)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        assert leases(home) == [Lease("other", 900)]
        with pytest.raises(NoRoom):
            memory(home, "mine", 200, 1000, wait_seconds=0).__enter__()
        other.kill()
        other.wait()
        with memory(home, "mine", 200, 1000, wait_seconds=0):
            assert leases(home) == [Lease("mine", 200)]


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 5)), min_size=1, max_size=12))
def test_whatever_is_asked_for_and_ended_what_goes_together_fits(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[int, int]]
) -> None:
    home, held = Home(tmp_path_factory.mktemp("home")), []
    for mb, ends in asked:
        one = memory(home, "step", mb, 1000, wait_seconds=0)
        try:
            one.__enter__()
            held.append((mb, one))
        except NoRoom:
            assert sum(size for size, _ in held) + mb > 1000
        assert sum(size for size, _ in held) <= 1000
        for _, gone in held[:ends]:
            gone.__exit__(None, None, None)
        del held[:ends]
    for _, gone in held:
        gone.__exit__(None, None, None)
    assert leases(home) == []
