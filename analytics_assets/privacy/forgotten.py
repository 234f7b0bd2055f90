"""Records of forgotten people that come again: late, replayed or sent once more, they are not stored."""

import duckdb

from analytics_assets.privacy.ledger import Ledger, Person


class Forgotten:
    """Finds them among mapped records, whose identifiers are still as they were sent."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def mark(self, con: duckdb.DuckDBPyConnection) -> bool:
        """Make temp table `forgotten_rows` (rn) of the records in `mapped`; False, and no table, where there are none.

        A record of before the request: it happened or was received until then, or does not say when. Who comes back later is
        somebody new.
        """
        requests = self._ledger.requests()
        if not requests:
            return False
        meant = self._ledger.stand_marks(con, requests)
        people = [
            Person(*row)
            for row in con.execute(
                "select tenant_id, kind, id from ("
                "select distinct tenant_id, 'user' as kind, user_id as id from mapped "
                "where tenant_id is not null and user_id <> '' "
                "union all "
                "select distinct tenant_id, 'device', anonymous_id from mapped "
                f"where tenant_id is not null and anonymous_id <> '' and coalesce(user_id, '') = '') where {meant}"
            ).fetchall()
        ]
        until = self._ledger.until(people)
        if not until:
            return False
        columns = [[getattr(person, name) for person in until] for name in ("tenant", "kind", "id")]
        con.execute(
            "create or replace temp table forgotten_people as select unnest(?::varchar[]) as tenant_id, "
            "unnest(?::varchar[]) as kind, unnest(?::varchar[]) as id, unnest(?::timestamp[]) as until",
            [*columns, list(until.values())],
        )
        con.execute(
            "create or replace temp table forgotten_rows as select distinct rn from (select rn, tenant_id, timestamp, "
            "received_at, case when coalesce(user_id, '') <> '' then 'user' else 'device' end as kind, "
            "coalesce(nullif(user_id, ''), anonymous_id) as id from mapped) join forgotten_people using (tenant_id, kind, id) "
            "where coalesce(timestamp <= until or received_at <= until, true)"
        )
        con.execute("drop table forgotten_people")
        return bool(con.execute("select count(*) from forgotten_rows").fetchall()[0][0])
