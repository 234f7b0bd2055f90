"""Whatever is done to the files of the log by hand is found, by whoever may do it: 1,000 random changes and more."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from analytics_assets.audit import chain as chains
from analytics_assets.audit.chain import entry_of, is_torn
from analytics_assets.audit.outside import Head, Outside
from analytics_assets.audit.verify import digest
from analytics_assets.settings import CONFIG, ConfigError, Settings
from analytics_assets_tests.audit.logs import Files, Log, files_of, forged, lines_of

# Entries of each log, and the size from which a file is followed by another: one file, several, one an entry.
LOGS = ((1, 10**6), (7, 10**6), (23, 2500), (40, 700), (12, 1))


@dataclass(frozen=True, repr=False)
class Written:
    """A log with so many entries, and its files as they were written."""

    log: Log
    files: Files
    entries: int


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[Written]:
    """Logs of random acts."""
    rng, found = Random(20260310), list[Written]()
    for place, (entries, size) in enumerate(LOGS):
        log = Log(tmp_path_factory.mktemp("log") / str(place))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chains, "SEGMENT_BYTES", size)
            for number in range(entries):
                people = [("acme", f"u{rng.randrange(9)}") for _ in range(rng.randrange(4))]
                reason = rng.choice([None, "why not"])
                log.audit.record("query", subjects=people, reason=reason, details={"number": number, "rows": rng.randrange(99)})
        found.append(Written(log, log.files, entries))
    return found


def flip_a_bit(files: Files, rng: Random) -> Files:
    name = rng.choice(list(files))
    content = bytearray(files[name])
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return {**files, name: bytes(content)}


def replace_a_byte(files: Files, rng: Random) -> Files:
    name = rng.choice(list(files))
    place = rng.randrange(len(files[name]))
    return {**files, name: files[name][:place] + bytes([rng.randrange(256)]) + files[name][place + 1 :]}


def insert_bytes(files: Files, rng: Random) -> Files:
    name = rng.choice(list(files))
    place = rng.randrange(len(files[name]) + 1)
    return {**files, name: files[name][:place] + rng.randbytes(rng.randrange(1, 9)) + files[name][place:]}


def cut_out_bytes(files: Files, rng: Random) -> Files:
    name = rng.choice(list(files))
    begin, end = sorted(rng.choices(range(len(files[name]) + 1), k=2))
    return {**files, name: files[name][:begin] + files[name][end:]}


def remove_entries(files: Files, rng: Random) -> Files:
    lines = lines_of(files)
    begin, end = sorted(rng.choices(range(len(lines) + 1), k=2))
    return files_of(lines[:begin] + lines[end:])


def swap_entries(files: Files, rng: Random) -> Files:
    lines = lines_of(files)
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = (lines[one][0], lines[other][1]), (lines[other][0], lines[one][1])
    return files_of(lines)


def insert_an_entry_again(files: Files, rng: Random) -> Files:
    lines = lines_of(files)
    place = rng.randrange(len(lines))
    lines.insert(place, (lines[place][0], rng.choice(lines)[1]))
    return files_of(lines)


def cut_off_the_end(files: Files, rng: Random) -> Files:
    whole = b"".join(files.values())
    rest, kept = rng.randrange(len(whole)), dict[str, bytes]()
    for name, content in files.items():
        if rest > 0:
            kept[name] = content[:rest]
        rest -= len(content)
    return kept


def remove_a_file(files: Files, rng: Random) -> Files:
    gone = rng.choice(list(files))
    return {name: content for name, content in files.items() if name != gone}


def forge_without_the_key(files: Files, rng: Random) -> Files:
    return forged(None, files, rng.randrange(len(lines_of(files))), {"user": "somebody-else"})


CHANGES: list[Callable[[Files, Random], Files]] = [
    flip_a_bit, replace_a_byte, insert_bytes, cut_out_bytes, remove_entries, swap_entries, insert_an_entry_again,
    cut_off_the_end, remove_a_file, forge_without_the_key,
]  # fmt: skip


def test_logs_that_nobody_changed_are_whole(logs: list[Written]) -> None:
    for written in logs:
        found = written.log.verify()
        assert (found.whole, found.entries, found.notes) == (True, written.entries, [])
    assert [len(written.files) for written in logs][:2] == [1, 1]
    assert all(len(written.files) > 2 for written in logs[2:])


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, len(LOGS) - 1), change=st.sampled_from(CHANGES), rng=st.randoms(use_true_random=False))
def test_every_change_of_the_files_is_found(
    logs: list[Written], which: int, change: Callable[[Files, Random], Files], rng: Random
) -> None:
    log, files = logs[which].log, logs[which].files
    changed = change(files, rng)
    assume(changed != files)
    # The beginning of an entry behind the last one is what a crash leaves, and says nothing.
    assume(not is_torn(b"".join(changed.values()).removeprefix(b"".join(files.values())) or b"-"))
    log.files = changed
    try:
        assert log.verify().findings
    finally:
        log.files = files


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, len(LOGS) - 1), rng=st.randoms(use_true_random=False))
def test_a_checkpoint_kept_elsewhere_finds_what_even_the_owner_of_the_key_wrote_anew_before_it(
    logs: list[Written], which: int, rng: Random
) -> None:
    log, files = logs[which].log, logs[which].files
    kept = rng.randrange(logs[which].entries)
    checkpoint = _head(files, kept)
    outside = Outside(log.audit.settings.keys)
    known = outside.known(log.home)
    assert known is not None
    log.files = forged(outside, files, rng.randrange(kept + 1), {"user": "somebody-else"})
    outside.keep(log.home, log.chain.head())
    try:
        assert log.verify().whole
        assert log.verify([checkpoint]).findings
    finally:
        log.files = files
        outside.keep(log.home, known)


def _head(files: Files, place: int) -> Head:
    entry = entry_of(lines_of(files)[place][1].rstrip(b"\n"))
    assert entry is not None
    return entry.head


# What is lost stays found


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "home")


def test_a_cut_off_end_stays_found_when_the_log_goes_on(log: Log) -> None:
    log.add(*range(9))
    log.files = files_of(lines_of(log.files)[:5])
    log.add(100, 101)
    (finding,) = log.verify().findings
    assert finding.startswith("before entry 6 ")
    assert "of 9 entries that were known" in finding and "5 were there" in finding


def test_a_log_that_is_removed_stays_found_when_another_begins(log: Log) -> None:
    log.add(*range(9))
    shutil.rmtree(log.home)
    assert log.verify().findings
    log.add(100)
    assert len(log.verify().findings) == 1


def test_a_damaged_end_keeps_nobody_from_working_and_stays_found(log: Log) -> None:
    log.add(*range(9))
    lines = lines_of(log.files)
    lines[-1] = (lines[-1][0], lines[-1][1].replace(b"publish", b"pudlish"))
    log.files = files_of(lines)
    log.add(100)
    assert log.numbers == [*range(8), 100]
    found = log.verify().findings
    assert [finding.split(":")[0] for finding in found] == ["000000000001.ndjson, line 9", found[1].split(":")[0]]
    assert found[1].startswith("before entry 9 ")


def test_a_restored_backup_is_found_until_somebody_accepts_it_and_a_later_change_is_found_again(log: Log) -> None:
    log.add(*range(5))
    backup = log.files
    log.add(*range(5, 9))
    log.files = backup
    with log.audit.act("accept", reason="a backup was restored") as act:
        found = log.verify()
        act.details["findings"] = [digest(finding) for finding in found.findings]
    after = log.verify()
    assert (after.whole, len(after.accepted)) == (True, 1)
    log.files = {name: content.replace(b'"number":3', b'"number":4') for name, content in log.files.items()}
    assert not log.verify().whole


def test_a_forged_acceptance_accepts_nothing(log: Log) -> None:
    log.add(*range(9))
    log.files = forged(None, log.files, 4, {"user": "somebody-else"})
    digests = [digest(finding) for finding in log.verify().findings]
    log.files = forged(None, log.files, 8, {"action": "accept", "details": {"findings": digests}})
    assert not log.verify().whole


def test_without_the_key_hashes_alone_are_checked_if_that_is_asked_for(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANALYTICS_KEYS", str(tmp_path / "keys"))
    head = log.add(*range(9))
    (key,) = (tmp_path / "keys").glob("audit-*.key")
    away = key.rename(tmp_path / "away.key")
    (finding,) = log.verify().findings
    assert finding.startswith(f"entries 1 to 9: the key {key.stem.removeprefix('audit-')} that sealed them is not in ")
    assert log.verify([head], seals=False).whole
    # Work goes on with another key; the old entries are not taken for checked.
    log.add(9)
    assert len(log.verify().findings) == 1
    away.rename(key)
    assert log.verify().whole


def test_a_copy_of_the_log_elsewhere_says_that_its_end_is_not_known(log: Log, tmp_path: Path) -> None:
    log.add(*range(9))
    copy = Log(Path(shutil.copytree(log.home, tmp_path / "copy")))
    found = copy.verify()
    assert found.whole
    assert [note.split(" in ")[0] for note in found.notes] == ["no head of this log is kept"]


def test_keys_in_the_data_home_are_refused(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANALYTICS_KEYS", str(log.home / "keys"))
    with pytest.raises(ConfigError, match="keys must not lie in the data home"):
        Settings(log.home, CONFIG).keys  # noqa: B018
