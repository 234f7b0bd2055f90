"""What intake asks of whoever replaces identifiers before they are stored, or forgets people; it knows nothing about keys."""

from collections.abc import Collection, Sequence
from typing import Protocol

import duckdb


class Identifiers(Protocol):
    """Callers hold the lock of intake."""

    def replaced(
        self, con: duckdb.DuckDBPyConnection, relation: str, source: str, tenants: Collection[str],
        absent: Collection[str] = (), named: str | None = None,
    ) -> str:  # fmt: skip
        """A FROM item like `relation`, a FROM item of these tenants' events from a source, without their identifiers.

        `absent` names columns that hold nothing; `named` is a FROM item of the same rows with `columns`, cheaper to read.
        The answer can be read until the next call of `gather`, `keep` or `forget`.
        """

    def columns(self, source: str) -> Sequence[str]:
        """The columns of events that are replaced; none where no tenant's are."""

    def gather(self, con: duckdb.DuckDBPyConnection) -> None:
        """After each slice."""

    def keep(self, con: duckdb.DuckDBPyConnection, batch_id: str) -> None:
        """Before the events of the slices are committed."""

    def forget(self, con: duckdb.DuckDBPyConnection) -> None:
        """Instead of `keep`, where they are not committed."""

    def begin_anew(self, con: duckdb.DuckDBPyConnection, tenant: str) -> str:
        """From here to `end_anew` all of a tenant is replaced anew; returns the mark of the commit of events that does it."""

    def end_anew(self, tenant: str, *, done: bool) -> None:
        """After that commit, or where there was none."""


class Forgotten(Protocol):
    """Who is to be forgotten."""

    def look(self, con: duckdb.DuckDBPyConnection) -> bool:
        """Make temp tables `forgotten_rows` (rn) of the records in `mapped` that are not to be stored, and `stripped` (rn) of

        those of others that name somebody. False, and no tables, where there are none.
        """

    def strip(self, con: duckdb.DuckDBPyConnection) -> str | None:
        """After `look` found some: a FROM item like `mapped` without these names; None where it is the same."""

    def clean(self, con: duckdb.DuckDBPyConnection, rejected: str) -> bool:
        """Make temp table `cleaned` (rn, raw) of those records of a SELECT of rn whose texts name somebody.

        `raw` is what may be kept of each, or null. False, and no table, where there are none.
        """
