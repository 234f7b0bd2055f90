"""How much lies before a step as it begins, in bytes and rows: of tables their log tells it, of files the folder.

Nothing is read for it that the step would not read anyway. Bytes are those of whole files: a file that also holds other days
counts whole, as it has to be opened.
"""

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from analytics_assets.warehouse.spec import TableSpec
from analytics_assets.warehouse.table import DataFile, Table, day_bounds


@dataclass(frozen=True)
class Given:
    """Bytes, and rows. None: not known before the step reads it."""

    bytes: int | None = None
    rows: int | None = None


def in_tables(
    warehouse: Path, specs: Sequence[TableSpec], names: Collection[str], days: tuple[date, date] | None = None
) -> Given:
    """The files of the tables of these names, of dated ones those that can hold rows from the first to the last of `days`.

    Names that are no tables count for nothing; without any table nothing is known.
    """
    # Opening a table that was never written would make it.
    known = [spec for spec in specs if spec.name in names and (warehouse / spec.name / "_delta_log").exists()]
    if not known:
        return Given()
    files: list[DataFile] = []
    for spec in known:
        snapshot = Table(warehouse, spec).snapshot()
        files += snapshot.files if days is None or spec.time_column is None else snapshot.between(*day_bounds(days))
    return Given(sum(file.size for file in files), sum(file.rows for file in files))


def in_files(paths: Iterable[Path]) -> Given:
    """Files that wait; one that is gone meanwhile counts for nothing."""
    size = 0
    for path in paths:
        with suppress(FileNotFoundError):
            size += path.stat().st_size
    return Given(size)
