"""Seeded benchmark data: hourly Parquet batches in the canonical form, with duplicates and late rows whose number is known.

Every column is a function of the event's number, so a repeated event is the same event again and the truth needs no
second look at the files: batch `b` brings the events `b * fresh` to `(b + 1) * fresh - 1`, each exactly once, and repeats.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

START = datetime.fromisoformat("2026-01-05")  # UTC without a zone, as all times in the warehouse
TENANTS = tuple(f"tenant-{number:02d}" for number in range(40))
LATE_HOURS = 30


@dataclass(frozen=True)
class Stream:
    """An hourly stream: `rows` a batch, of which `repeated` are twins (half within the batch, half of earlier ones)."""

    rows: int
    batches: int
    repeated: float = 0.05
    late: float = 0.05
    seed: int = 7
    # Events that a person sends one after another. With one, every event is of somebody else.
    in_a_row: int = 1

    @property
    def repeats(self) -> int:
        return round(self.rows * self.repeated)

    @property
    def fresh(self) -> int:
        return self.rows - self.repeats

    @property
    def events(self) -> int:
        """The distinct events of the whole stream."""
        return self.fresh * self.batches

    def write(self, folder: Path) -> list[Path]:
        """The files of all batches; those of an earlier run with the same parameters are taken as they are."""
        name = f"{self.rows}-{self.repeated}-{self.late}-{self.seed}" + (f"-{self.in_a_row}" if self.in_a_row > 1 else "")
        folder = folder / name
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"batch-{batch:04d}.parquet" for batch in range(self.batches)]
        with duckdb.connect(config={"threads": 2, "memory_limit": "1GB"}) as con:
            for batch, path in enumerate(paths):
                if not path.exists():
                    part = path.with_suffix(".part")
                    con.execute(f"copy ({self._select(batch)}) to '{part}' (format parquet)")
                    part.rename(path)
        return paths

    def _select(self, batch: int) -> str:
        first, fresh, seed = batch * self.fresh, self.fresh, self.seed
        # Repeats of earlier batches reach as far back as late rows do: twice the hour's own twins, then the past.
        past = min(batch, LATE_HOURS)
        within = self.repeats // 2 if past else self.repeats
        picked = f"hash(n || ':{seed}:{batch}:repeat')"

        def drawn(salt: str) -> str:
            """64 bits that belong to the event. One text, since hashes of several arguments are alike between salts."""
            number = f"id // {self.in_a_row}" if self.in_a_row > 1 and salt in ("tenant", "user", "known") else "id"
            return f"hash({number} || ':{seed}:{salt}')"

        def share(salt: str) -> str:
            """A number from 0 to 1 that belongs to the event."""
            return f"(({drawn(salt)} >> 11) / 9007199254740992.0)"

        return f"""
            with numbers as (
                select {first} + n as id, 0 as again from range({fresh}) t(n)
                union all
                select {first} + ({picked} % {fresh})::bigint, n + 1 from range({within}) t(n)
                union all
                select {first - past * fresh} + ({picked} % {max(past * fresh, 1)})::bigint, n + 1
                from range({within}, {self.repeats}) t(n)
            ), timed as (
                select *, id // {fresh} as home, {share("second")} * 3600 as second,
                    case when {share("late")} < {self.late} then {share("hours")} * {LATE_HOURS} * 3600 else 0 end as delay
                from numbers
            )
            select
                'tenant-' || lpad(floor(power({share("tenant")}, 1.7) * {len(TENANTS)})::bigint::varchar, 2, '0') as tenant_id,
                md5(id || ':{seed}')::uuid::varchar as message_id,
                'track' as type,
                (['Product Viewed', 'Product Viewed', 'Product Viewed', 'Products Searched', 'Product Added',
                  'Checkout Started', 'Order Completed', 'Article Read']
                )[1 + ({drawn("event")} % 8)::int] as event,
                case when {share("known")} < 0.4 then 'user-' || ({drawn("user")} % 200000)::varchar end as user_id,
                md5('device' || ({drawn("user")} % 600000)::varchar)::uuid::varchar as anonymous_id,
                date_trunc('milliseconds', timestamp '{START}' + to_hours(home) + to_microseconds(
                    ((second - delay) * 1000000)::bigint)) as timestamp,
                date_trunc('milliseconds', timestamp '{START}' + to_hours({batch}) + to_microseconds(
                    ((second + {share("latency")} * 5) * 1000000)::bigint)) + to_milliseconds(again % 1000) as received_at,
                '{{"path":"/products/' || ({drawn("path")} % 20000) || '","referrer":"https://www.example.com/'
                    || ({drawn("referrer")} % 500) || '","position":' || ({drawn("position")} % 40)
                    || ',"price":' || (({drawn("price")} % 20000) / 100)::decimal(9, 2) || ',"variant":"'
                    || (['red', 'green', 'blue', 'black'])[1 + ({drawn("variant")} % 4)::int]
                    || '","list":"recommended","experiment":"checkout-' || ({drawn("experiment")} % 6)
                    || '"}}' as properties,
                case when {drawn("event")} % 8 = 6
                    then (({drawn("price")} % 20000) / 100)::decimal(18, 4) end as revenue,
                'P' || ({drawn("path")} % 20000) as product_id,
                (['spring', 'summer', null, null, 'brand'])[1 + ({drawn("campaign")} % 5)::int] as campaign,
                (['GB', 'DE', 'FR', 'US', 'JP'])[1 + (hash(anonymous_id) % 5)::int] as region
            from timed
            order by received_at
        """


def write_one(paths: Sequence[Path], target: Path) -> Path:
    """All batches as one file, in the order of their arrival."""
    if not target.exists():
        part = target.with_suffix(".part")
        names = ", ".join(f"'{path}'" for path in paths)
        with duckdb.connect(config={"threads": 2, "memory_limit": "1GB"}) as con:
            con.execute(f"copy (select * from read_parquet([{names}])) to '{part}' (format parquet)")
        part.rename(target)
    return target


def write_config(source: Path, folder: Path, *, pseudonyms: bool = False) -> Path:
    """A copy of the declarations `source` with the benchmark's tenants.

    Without pseudonyms, which no peer makes; what they cost is a benchmark of its own.
    """
    shutil.copytree(source, folder, dirs_exist_ok=True)
    lines = [f"  - {{id: {tenant}, source: canonical, pseudonyms: {str(pseudonyms).lower()}}}" for tenant in TENANTS]
    (folder / "tenants.yaml").write_text("\n".join(["tenants:", *lines]) + "\n", encoding="utf-8")
    return folder
