"""Who goes first where writers take turns: the process that has the right of way, and nobody for ever."""

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from analytics_assets.warehouse.home import GIVE_WAY_SECONDS, Busy, Home
from analytics_assets_tests.faults import FORK, process


def hold(root: Path, lock: str | None, said: Connection) -> None:
    """Hold a lock, or the right of way and then a turn of it, until this process is killed."""
    home = Home(root)
    with home.lock(lock) if lock else home.right_of_way():
        if lock is None:
            with home.turn("rebuild", wait_seconds=0):
                pass
        said.send("held")
        said.recv()


@contextmanager
def another(root: Path, lock: str | None) -> Iterator[None]:
    ours, theirs = FORK.Pipe()
    holder = process(hold, root, lock, theirs)
    holder.start()
    try:
        assert ours.recv() == "held"
        yield
    finally:
        holder.kill()
        holder.join()


class Slept:
    """Seconds that were waited, without waiting."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, seconds: float) -> None:
        self.seconds += seconds


def test_who_has_no_right_of_way_begins_no_turn_while_another_has_it(tmp_path: Path) -> None:
    home, slept = Home(tmp_path), Slept()
    with another(tmp_path, None):
        with pytest.raises(Busy), home.turn("rebuild", wait_seconds=5, sleep=slept):
            raise AssertionError("the turn began")
        # A lock that nobody needs to give way for is free.
        with home.lock("publish", wait_seconds=0):
            pass
    with home.turn("rebuild", wait_seconds=0):
        pass


def test_nobody_gives_way_for_ever(tmp_path: Path) -> None:
    home, slept = Home(tmp_path), Slept()
    with another(tmp_path, None), home.turn("rebuild", sleep=slept):
        assert GIVE_WAY_SECONDS <= slept.seconds < GIVE_WAY_SECONDS + 1


def test_a_killed_process_leaves_no_right_of_way(tmp_path: Path) -> None:
    with another(tmp_path, None):
        pass
    with Home(tmp_path).right_of_way(), Home(tmp_path).turn("rebuild", wait_seconds=0):
        pass


def test_whether_a_lock_is_held_can_be_asked_without_holding_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert not home.in_use("worker")
    with another(tmp_path, "worker"):
        assert home.in_use("worker")
    assert not home.in_use("worker")
