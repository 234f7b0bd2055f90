"""The taxonomy as a page for people: what may be sent, what is masked, what is excluded, by table."""

from collections.abc import Iterable, Sequence

from analytics_assets.privacy.labels import Labelled, Labels
from analytics_assets.warehouse.spec import TableSpec

_HEAD = """# What every field is

Written by `analytics privacy document` from `analytics_assets/config/taxonomy.yaml` and the SQL that computes the tables; a
test fails when they part ways. Change the declarations, not this page.

| handling | labels | what it means where data leave the house |
|---|---|---|
| sent | operational, behavioural | as it is |
| masked | quasi_identifier, identifier | never as it is: rare values and identities are masked |
| excluded | restricted | not at all; no model may use it |
| hidden | none yet | readers do not see it before it has a label |

Two of these rules hold by themselves: what is hidden, and that a model that asks for its fields gets no excluded one. Nothing
masks yet: the published file shows all other fields as they are.

What is computed inherits the strictest label of the fields that its values come from, and the shortest retention. A column
carries the values of another if it changes when these are renamed. What only chooses rows is not carried, and a count carries
no value but what the rows tell by being there: **a count of one is still a count**, and nothing here promises that a group is
large. Where a column says less than it inherits, the last column of its table tells why.
"""


def document(labels: Labels, specs: Sequence[TableSpec]) -> str:
    """The whole page, as Markdown."""
    kept = [f"- {name}: {meaning}" for name, meaning in labels.taxonomy.retention.items()]
    parts = [_HEAD, "Retention classes, the shortest kept first:\n\n" + "\n".join(kept) + "\n"]
    for spec in specs:
        fields = [found for name in spec.column_names if (found := labels.of(spec.name, name)) is not None]
        parts.append(f"## {spec.name}\n\n{_summary(fields)}\n\n{_table(fields)}\n")
    keys = list(labels.every_key())
    for column, source in dict.fromkeys((key.field.split(".")[0], key.source) for key in keys):
        chosen = [key for key in keys if (key.field.split(".")[0], key.source) == (column, source)]
        whose = "events of any source" if source == "every_source" else f"events of the source {source}"
        parts.append(f"## Keys in `{column}`, {whose}\n\n{_summary(chosen)}\n\n{_table(chosen)}\n")
    return "\n".join(parts)


def _summary(fields: Iterable[Labelled]) -> str:
    by_handling: dict[str, list[str]] = {"sent": [], "masked": [], "excluded": []}
    for field in fields:
        by_handling[field.handling].append(f"`{_short(field)}`")
    return "\n".join(f"- {handling}: {', '.join(names) or 'none'}" for handling, names in by_handling.items())


def _short(field: Labelled) -> str:
    """A key by its path alone."""
    return field.field.partition(".")[2] if field.source else field.field


def _table(fields: Iterable[Labelled]) -> str:
    lines = ["| field | label | category | purpose | retention | owner | comes from | loosened |", "|---" * 8 + "|"]
    for field in fields:
        origins = ", ".join(f"`{origin}`" for origin in field.inherited_from)
        cells = (
            f"`{_short(field)}`", field.label, field.category or "", field.purpose, field.retention, field.owner, origins,
            field.loosened_by or "",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
