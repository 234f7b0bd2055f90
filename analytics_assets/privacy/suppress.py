"""Groups of people that are large enough to be told: one fixed partition of a tenant's rows, from which all answers are cut.

The partition is a tree. All rows of a tenant are split by the first level (such as the month), each part by the next, and so
on. Where a value has fewer than k people, it is not split off: all such values of one node go together into one block, and if
even together they have fewer than k, the smallest of the other values goes with them (what hides a cell must hide its
complement too, or the total minus the rest would tell it). So every row lies in exactly one block, and every block has at
least k people. A block tells of each level the value that all its rows have, or nothing; how many people it has; and the sum of
each measure, but not if its rows that have a part in the measure, or those that have none, are of fewer than k people.

Why no group of fewer than k gets out, whatever is asked and however often. An answer is a sum of numbers of whole blocks,
chosen and grouped by what the blocks tell (`egress`). It is computed from the table of blocks and from nothing else, so all
answers together tell no more than that table, in any format and order. No two blocks share a row. So the rows that no number of
the table tells apart are those of one block that have a part in the same told measures, which are of k people at least; and
sums, differences or any other combination of answers count such rows together or not at all. Two conditions carry this. There
is one partition for all roles and all measures: two partitions of the same rows could be subtracted from each other, and so
could two measures that are nearly the same number. And all measures add up: distinct people do not, and were they counted anew
for unions of blocks, then A + B - (A or B) would tell how many are in both, which may be one. So people are counted once in
each block, and added up.

Not protected: what a block tells about all its people alike (that they all did what it says); a sum that is nearly all one
person's; a tenant that makes up people; who knows all but one of a block from elsewhere. And two versions of the same days
can be subtracted, where late events or an erasure changed a block: see `settled_days` in roles.yaml.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from analytics_assets.warehouse.spec import identifier

BLOCKS = "blocks"
# A level numbers its nodes anew; both together tell a closed one from all others.
_MOST_LEVELS = 32


@dataclass(frozen=True)
class Measure:
    """A number that adds up over rows: a column of the rows, zero where a row has no part in it, and the type of its sums."""

    name: str
    type: str


def partition(con: duckdb.DuckDBPyConnection, rows: str, levels: Sequence[str], measures: Sequence[Measure], k: int) -> None:
    """Make the temporary table `blocks`: a column a level, `people_per_group`, and a column a measure; NULL: masked.

    `rows` is a SELECT of `person` (NULL: not known, counts as nobody), the levels as texts that are never NULL, and the
    measures, never NULL either. The earlier a level stands, the longer it is told. There are no blocks if there are fewer than
    k people. The blocks depend on the rows alone, not on their order.
    """
    if not 0 < len(levels) < _MOST_LEVELS:
        raise ValueError(f"{len(levels)} levels; take 1 to {_MOST_LEVELS - 1}")
    names = ", ".join(map(identifier, levels))
    sums = "".join(
        f", {identifier(one.name)} <> 0 as {_part(one)}, sum({identifier(one.name)}) as {identifier(one.name)}"
        for one in measures
    )
    con.execute(
        f"create or replace temp table parts as select 1::bigint as node, person, {names}{sums} from ({rows}) group by all"
    )
    if con.execute("select count(distinct person) from parts").fetchall()[0][0] < k:
        con.execute("delete from parts")
    else:
        for number, level in enumerate(levels):
            _split(con, identifier(level), number, k)
        for number, measure in enumerate(measures):
            _mask(con, measures[:number], measure, k)
    told = [f"case when min({name}) = max({name}) then min({name}) end as {name}" for name in map(identifier, levels)]
    told += ["count(distinct person) as people_per_group", *map(_told, measures)]
    con.execute(f"create or replace temp table {BLOCKS} as select {', '.join(told)} from parts group by node")
    con.execute("drop table parts")


def _part(measure: Measure) -> str:
    """The column that tells whether rows have a part in a measure, also where it adds up to nothing; NULL: masked."""
    return identifier(f"part of {measure.name}")


def _told(measure: Measure) -> str:
    name = identifier(measure.name)
    return f"case when count({_part(measure)}) > 0 then sum({name})::{measure.type} end as {name}"


def _mask(con: duckdb.DuckDBPyConnection, before: Sequence[Measure], measure: Measure, k: int) -> None:
    """Mask a measure in blocks where it would tell fewer than k people apart, beside the measures that are told there."""
    apart = ", ".join(map(_part, (*before, measure)))
    few = f"select node from parts group by node, {apart} having count(distinct person) < {k:d}"
    con.execute(f"update parts set {_part(measure)} = null where node in ({few})")


def _split(con: duckdb.DuckDBPyConnection, level: str, number: int, k: int) -> None:
    """Split every open node (its number is positive) by a level. What is too small is closed as one block a node."""
    con.execute(f"""
        create or replace temp table parts as
        with
        groups as (
            select node, {level} as value, count(distinct person) as people from parts where node > 0 group by all
        ),
        together as (
            select parts.node, count(distinct person) as people from parts
            join groups on groups.node = parts.node and groups.value = parts.{level}
            where groups.people < {k:d} group by parts.node
        ),
        -- Those that are large enough first, the smallest of them at the head.
        placed as (
            select groups.*, together.people as few,
                row_number() over (partition by groups.node order by groups.people < {k:d}, groups.people, value) as place
            from groups left join together on together.node = groups.node
        ),
        split as (
            select node, value,
                case when people < {k:d} or (few < {k:d} and place = 1) then -(node * {_MOST_LEVELS} + {number})
                    else row_number() over () end as below
            from placed
        )
        select parts.* replace (coalesce(split.below, parts.node) as node) from parts
        left join split on split.node = parts.node and split.value = parts.{level}
    """)
