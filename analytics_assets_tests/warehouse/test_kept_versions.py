"""Whatever is loaded, rebuilt, rolled back, compacted and swept: every published version that is kept stays as it was."""

import random
from collections.abc import Sequence

import pytest

from analytics_assets.settings import UserError
from analytics_assets.warehouse.publish import current_version, rollback, version_path, versions
from analytics_assets_tests.builders import Line, Opener, an_event, at
from analytics_assets_tests.faults import ROUNDS, shown

LIMITS = {"storage": {"dense_day_rows": 20, "keep_versions": 3}}
# What a version shows as of one rebuild.
TOGETHER = ("events", "batches", "sessions", "page_views", "users", "events_daily", "revenue_daily")
STEPS = ("load", "load", "rebuild", "sessions", "publish", "publish", "release", "rollback", "compact", "sweep", "sweep")


@pytest.fixture(autouse=True)
def _views_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that are copied into the published file stay by themselves; here all are views over files."""
    monkeypatch.setattr("analytics_assets.warehouse.publish.INLINE_ROWS", 0)


class Keeper:
    """A line, and what each version showed when it was published."""

    def __init__(self, line: Line) -> None:
        self.line, self.home = line, line.pipeline.home
        self.batches: list[list[dict[str, object] | str]] = []
        self.seen: dict[int, dict[str, tuple[int, int]]] = {}

    def step(self, name: str) -> None:
        getattr(self, name)()
        if name in ("publish", "release", "sweep"):
            self.look(name)

    def look(self, name: str) -> None:
        kept = {number: shown(version_path(self.home, number)) for number in versions(self.home)}
        assert kept == {number: self.seen.get(number) for number in kept}, f"after {name}"

    def load(self) -> None:
        """A batch over closed and open days, half of it known from the batch before, with new users for old devices."""
        number = len(self.batches)
        batch: list[dict[str, object] | str] = [
            an_event(
                f"m{n}",
                timestamp=at(n % 90, day=-(n % 6) * 9),
                anonymous_id=f"device-{n % 7}",
                user_id=f"user-{number}-{n % 3}" if n % 4 == 0 else None,
                revenue="1.25",
            )
            for n in range(number * 40, number * 40 + 80)
        ]
        self.batches.append([*batch, f"no json {number}"])
        self.line.load(self.batches[-1])

    def rebuild(self) -> None:
        self.line.rebuild()

    def sessions(self) -> None:
        """The first half of a rebuild, as a killed run leaves it."""
        if days := self.line.pipeline.pending(self.line.con):
            self.line.sessions(days)

    def publish(self, **options: bool) -> None:
        before = current_version(self.home)
        try:
            done = self.line.publish(**options)
        except UserError:
            assert current_version(self.home) == before
        else:
            assert done.version == current_version(self.home)
            self.seen.setdefault(done.version, shown(done.path))

    def release(self) -> None:
        self.publish(release=True)

    def rollback(self) -> None:
        present = current_version(self.home)
        if present is not None and min(versions(self.home)) < present:
            rollback(self.home, None, now=self.line.now, reason="a wrong price")

    def compact(self) -> None:
        self.line.pipeline.compact(self.line.con, self.line.now)

    def sweep(self) -> None:
        self.line.pipeline.sweep(self.line.con)


def undisturbed(line: Line, batches: list[list[dict[str, object] | str]]) -> dict[str, tuple[int, int]]:
    for batch in batches:
        line.load(batch)
    line.rebuild()
    return shown(line.publish().path)


# After a rollback the next publish works, through load, rebuild, compaction and sweep; then orders by chance.
ORDERS = [
    ("load", "rebuild", "publish", "rollback", "load", "rebuild", "compact", "sweep"),
    *(tuple(random.Random(seed).choices(STEPS, k=12)) for seed in range(1, ROUNDS)),
]


@pytest.mark.long
@pytest.mark.parametrize("order", ORDERS)
def test_every_kept_version_stays_as_it_was_whatever_is_done_in_which_order(open_line: Opener, order: Sequence[str]) -> None:
    keeper = Keeper(open_line("home", limits=LIMITS))
    for name in ["load", "rebuild", "publish", *order, "load", "rebuild", "release"]:
        keeper.step(name)
    assert keeper.seen[max(versions(keeper.home))] == undisturbed(open_line("whole", limits=LIMITS), keeper.batches)


def test_the_publish_after_a_sweep_shows_the_last_rebuild_although_its_files_were_compacted(open_line: Opener) -> None:
    """Loaded after the rebuild and compacted: the version that is published next is not the present one."""
    keeper = Keeper(open_line("home", limits=LIMITS))
    for name in ("load", "rebuild", "load", "compact", "sweep", "publish"):
        keeper.step(name)
    first = undisturbed(open_line("whole", limits=LIMITS), keeper.batches[:1])
    assert {name: keeper.seen[1][name] for name in TOGETHER} == {name: first[name] for name in TOGETHER}


def test_a_sweep_keeps_what_a_version_reads_whose_publish_was_killed_before_it_was_recorded(open_line: Opener) -> None:
    """Sessions are shown with the identities of their time, which belong to another table."""
    keeper = Keeper(open_line("home", limits=LIMITS))
    for name in ("load", "rebuild", "publish"):
        keeper.step(name)
    (keeper.home.published / "history.ndjson").unlink()
    for name in ("load", "rebuild", "sweep"):
        keeper.step(name)
