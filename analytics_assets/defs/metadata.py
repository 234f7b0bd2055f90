"""What the UI shows of a table: columns with their meaning, counts, and small pictures drawn as SVG."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from html import escape

import dagster as dg

from analytics_assets.warehouse.spec import TableSpec

_PALETTE = ("#4f43dd", "#12a594", "#e5484d", "#f5a623", "#8e4ec6", "#0091ff", "#697177")


def column_schema(spec: TableSpec) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[dg.TableColumn(column.name, column.type.lower(), description=column.comment) for column in spec.columns]
    )


def column_lineage(columns: Iterable[str], upstream: Mapping[str, Iterable[str]]) -> dg.TableColumnLineage:
    """Columns that carry the name of an upstream column are made from it; of the others nothing is said.

    `upstream` maps an asset's name to its columns. The house keeps one name for one thing from events to marts.
    """
    sources = {name: set(names) for name, names in upstream.items()}
    found = {
        column: [dg.TableColumnDep(asset_key=name, column_name=column) for name in sorted(sources) if column in sources[name]]
        for column in columns
    }
    return dg.TableColumnLineage({column: deps for column, deps in found.items() if deps})


# How a table changes; select `tag:rebuilt=by_day` in the UI for all that can be backfilled.
BY_BATCH, BY_DAY, AS_A_WHOLE = ({"rebuilt": how} for how in ("by_batch", "by_day", "as_a_whole"))


def explained(table: str) -> dict[str, dg.MetadataValue]:
    """Where the UI tells what stands behind a published table: with each publish, and by the command that tells it now."""
    return {"explained by": dg.MetadataValue.asset(dg.AssetKey("analytics_duckdb")),
            "explain": dg.MetadataValue.text(f"analytics explain {table}")}  # fmt: skip


def asset_spec(
    spec: TableSpec, *, group: str, kinds: set[str], owner: str, tags: Mapping[str, str], **arguments: object
) -> dg.AssetSpec:
    """The asset of a table: its description and columns come from the table's declaration."""
    return dg.AssetSpec(
        spec.name,
        description=spec.comment,
        group_name=group,
        kinds=kinds,
        owners=[owner],
        tags=tags,
        metadata={"dagster/column_schema": column_schema(spec), **explained(spec.name)},
        **arguments,  # type: ignore[arg-type]
    )


def row_counts(total: int, written: int, days: Sequence[date] | None = None) -> dict[str, int]:
    """Rows of the whole table, and of the partition where the run was asked for one day: Dagster notes both with every day."""
    return {"dagster/row_count": total, **({"dagster/partition_row_count": written} if days and len(days) == 1 else {})}


def picture(svg: str) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![picture](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})")


def stacked_days(rows: Sequence[tuple[date, str, float]], title: str, keep: int = 6) -> str:
    """Bars a day, stacked by series; series beyond the `keep` largest are summed as 'others'. Returns SVG."""
    totals: dict[str, float] = {}
    for _, name, value in rows:
        totals[name] = totals.get(name, 0) + value
    top = sorted(totals, key=lambda name: -totals[name])[:keep]
    names = [*top, "others"] if len(totals) > len(top) else top
    by_day: dict[date, dict[str, float]] = {}
    for day, name, value in rows:
        series = name if name in top else "others"
        by_day.setdefault(day, {})[series] = by_day.get(day, {}).get(series, 0) + value
    if not by_day:
        return _frame(title, "<text x='20' y='60'>no rows</text>", 120)
    first, last = min(by_day), max(by_day)
    width = 680 / ((last - first).days + 1)
    highest = max(sum(parts.values()) for parts in by_day.values()) or 1
    shapes = []
    for day, parts in by_day.items():
        base = 230.0
        for series in names:
            height = 180 * parts.get(series, 0) / highest
            base -= height
            x = 40 + (day - first).days * width
            color = _PALETTE[names.index(series)]
            shapes.append(
                f"<rect x='{x:.1f}' y='{base:.1f}' width='{max(width, 1):.1f}' height='{height:.1f}' fill='{color}'/>"
            )
    legend = "".join(
        f"<rect x='{40 + 115 * n}' y='258' width='10' height='10' fill='{_PALETTE[n]}'/>"
        f"<text x='{54 + 115 * n}' y='267'>{escape(name[:15])}</text>"
        for n, name in enumerate(names)
    )
    axis = f"<text x='40' y='246'>{first}</text><text x='720' y='246' text-anchor='end'>{last}</text>"
    peak = f"<text x='40' y='44'>peak {highest:,.0f}</text>"
    return _frame(title, "".join(shapes) + legend + axis + peak, 280)


def triangle(rows: Sequence[tuple[date, int, float]], title: str) -> str:
    """A retention triangle: a line a cohort, a cell a week, darker the more people came back. Returns SVG."""
    cohorts = sorted({row[0] for row in rows})
    shares: Mapping[tuple[date, int], float] = {(cohort, week): share for cohort, week, share in rows}
    cells = [
        f"<rect x='{110 + 11 * week}' y='{40 + 11 * cohorts.index(cohort)}' width='10' height='10' fill='#4f43dd' "
        f"fill-opacity='{min(1, 0.06 + share):.2f}'><title>{cohort}, week {week}: {share:.0%}</title></rect>"
        for (cohort, week), share in shares.items()
    ]
    labels = [
        f"<text x='104' y='{49 + 11 * n}' text-anchor='end'>{cohort}</text>" for n, cohort in enumerate(cohorts) if n % 4 == 0
    ]
    return _frame(title, "".join(cells + labels), 60 + 11 * len(cohorts))


def _frame(title: str, inner: str, height: int) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='760' height='{height}' font-family='sans-serif' font-size='11'>"
        f"<rect width='760' height='{height}' fill='white'/>"
        f"<text x='20' y='24' font-size='14'>{escape(title)}</text>{inner}</svg>"
    )
