"""Processes that write at once, that are killed, that find the disk full: what was acknowledged stays, and the log is whole."""

import signal
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics_assets.audit.outside import Outside
from analytics_assets_tests.audit.logs import Log, add_all, add_on_a_full_disk, add_until_killed
from analytics_assets_tests.faults import FORK, ROUNDS, process, run

WRITERS, EACH, KILLS = 4, 25, 8


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "home")


def killed_after(delay: float, home: Path, first: int) -> list[int]:
    """What a process acknowledged, beginning with `first`, that is killed so many seconds after its first entry."""
    hear, say = FORK.Pipe(duplex=False)
    child = process(add_until_killed, home, first, say)
    child.start()
    say.close()
    heard = [hear.recv()]
    child.join(delay)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    with suppress(EOFError):
        while True:
            heard.append(hear.recv())
    return heard


@pytest.mark.long
def test_a_writer_that_is_killed_loses_nothing_that_was_acknowledged(log: Log) -> None:
    rng, acknowledged = Random(20260310), list[int]()
    for round_ in range(KILLS):
        acknowledged += killed_after(rng.uniform(0, 0.05), log.home, 1000 * round_)
        found = log.verify()
        assert found.whole, found.findings
        unsaid = set(log.numbers) - set(acknowledged)
        assert set(acknowledged) <= set(log.numbers)
        # Of each process at most one was written that it had no time to acknowledge.
        assert len({number // 1000 for number in unsaid}) == len(unsaid)
    assert log.numbers == sorted(set(log.numbers))


def test_writers_at_once_make_one_chain_with_the_entries_of_all_in_their_order(log: Log) -> None:
    writers = [process(add_all, log.home, 1000 * n, EACH) for n in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert log.verify().whole
    for n in range(WRITERS):
        assert [number for number in log.numbers if number // 1000 == n] == list(range(1000 * n, 1000 * n + EACH))
    assert log.verify().entries == WRITERS * EACH


@settings(max_examples=25 * ROUNDS, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1), garbage=st.sampled_from([b"", b"\0" * 50]))
def test_a_line_torn_at_any_place_by_a_crash_is_told_from_a_change_and_repaired(
    tmp_path_factory: pytest.TempPathFactory, share: float, garbage: bytes
) -> None:
    log = Log(tmp_path_factory.mktemp("torn") / "home")
    before, known = (log.add(1, 2), log.files), Outside(log.audit.settings.keys).known(log.home)
    log.add(3)
    (name, whole), (_, two) = *log.files.items(), *before[1].items()
    line = whole.removeprefix(two)
    cut = line[: round(share * (len(line) - 1))]
    # As a crash leaves it: the line begun, and its head not kept yet.
    log.files = {name: two + cut + garbage}
    assert known is not None
    Outside(log.audit.settings.keys).keep(log.home, known)
    assert log.verify().whole
    log.add(4)
    found = log.verify()
    assert found.whole
    is_whole = cut == line[:-1] and not garbage
    assert log.numbers == ([1, 2, 3, 4] if is_whole else [1, 2, 4])
    assert len(found.notes) == bool(cut + garbage and not is_whole)


def test_the_same_cut_after_the_entry_counted_is_no_crash(log: Log) -> None:
    log.add(1, 2, 3)
    log.files = {name: content[:-20] for name, content in log.files.items()}
    assert log.verify().findings
    log.add(4)
    assert [finding for finding in log.verify().findings if finding.startswith("before entry 3 ")]


def test_an_entry_for_which_the_disk_has_no_room_is_taken_back_whole(log: Log) -> None:
    log.add(1, 2)
    assert run(add_on_a_full_disk, log.home, 3) == 0
    found = log.verify()
    assert (found.whole, found.notes, log.numbers) == (True, [], [1, 2])
    log.add(4)
    assert log.numbers == [1, 2, 4]
