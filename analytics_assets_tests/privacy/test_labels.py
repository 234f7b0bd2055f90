"""Every field has a label: as declared, or the strictest of what it comes from; a wrong declaration is one sentence."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_assets.labelling import FACTS, load_labels
from analytics_assets.pipeline import Pipeline
from analytics_assets.privacy.labels import Labels, Lineage, Unlabelled
from analytics_assets.privacy.taxonomy import LABELS, FieldLabel, Taxonomy, fides_names
from analytics_assets.quality.masks import CATEGORIES, OURS
from analytics_assets.settings import CONFIG, ConfigError, Settings
from analytics_assets_tests.builders import a_config

Wrong = Callable[[str, str], str]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    pipeline = Pipeline(Settings(tmp_path_factory.mktemp("home")))
    return load_labels(pipeline.settings, pipeline.specs)


@pytest.fixture
def wrong(tmp_path: Path) -> Wrong:
    """What is said of the project's taxonomy when one text in it is another."""

    def said(text: str, instead: str) -> str:
        config = a_config(tmp_path / "config")
        path = config / "taxonomy.yaml"
        assert path.read_text().count(text) >= 1
        path.write_text(path.read_text().replace(text, instead, 1))
        pipeline = Pipeline(Settings(tmp_path / "home", config))
        with pytest.raises(ConfigError) as caught:
            load_labels(pipeline.settings, pipeline.specs)
        return str(caught.value)

    return said


def _line(text: str) -> int:
    """The line of the taxonomy that the text stands in first."""
    lines = (CONFIG / "taxonomy.yaml").read_text().splitlines()
    return next(n for n, line in enumerate(lines, 1) if text in line)


def test_every_column_of_every_table_has_a_label(labels: Labels, tmp_path: Path) -> None:
    specs = [*Pipeline(Settings(tmp_path)).specs, *FACTS]
    assert labels.missing([(spec.name, spec.column_names) for spec in specs]) == []
    assert labels.missing([("events", ["user_id", "mood"]), ("moods", ["mood"])]) == ["events.mood", "moods.mood"]


@pytest.mark.parametrize(
    ("field", "label"),
    [
        ("events.user_id", "identifier"),
        ("sessions.person_id", "identifier"),
        ("users.first_seen_at", "quasi_identifier"),
        ("sessions.date", "behavioural"),
        ("cohort_retention_weekly.cohort_users", "behavioural"),
        ("revenue_daily.orders", "behavioural"),
        ("events_daily.region", "quasi_identifier"),
        ("properties_daily.property", "restricted"),
        ("events.properties.price", "behavioural"),
        # Inside a person's traits a path has its own label, or that of the traits.
        ("events.properties.traits.email", "identifier"),
        ("events.properties.traits.shoe_size", "restricted"),
        ("events.context.device.id", "identifier"),
    ],
)
def test_the_label_of(labels: Labels, field: str, label: str) -> None:
    found = labels.field(field)
    assert found is not None and found.label == label


def test_a_loosened_column_says_how(labels: Labels) -> None:
    found = labels.of("sessions", "date")
    assert found and found.inherited_from == ("events.timestamp",) and str(found.loosened_by).startswith("bucketed to days: ")


def test_samples_of_rows_at_fault_show_only_columns_that_identify_nobody(labels: Labels, tmp_path: Path) -> None:
    specs = Pipeline(Settings(tmp_path)).specs
    found = {labels.of(spec.name, name) for spec in specs for name in spec.column_names if name in {*OURS, *CATEGORIES}}
    assert len(found) > 10 and {one.handling for one in found if one} == {"sent"}


_SOURCES = ("a", "b", "c")


@given(st.fixed_dictionaries({name: st.sampled_from(LABELS) for name in _SOURCES}), st.permutations(("long", "short")))
def test_the_strictest_label_and_the_shortest_retention_win(chosen: dict[str, str], classes: list[str]) -> None:
    lineage: Lineage = {
        "made": {"x": frozenset({"t.a", "t.b"}), "y": frozenset({"made.x", "t.c"}), "none": frozenset({"t.a", "t.gone"})}
    }
    columns = {name: {"label": label, "retention": classes[name == "b"]} for name, label in chosen.items()}
    taxonomy = Taxonomy.model_validate(
        {
            "retention": {"short": "a day", "long": "a year"},
            "defaults": {"purpose": "analytics", "retention": "long", "owner": "us"},
            "tables": {"t": {"rows": "operational", "columns": columns}},
            "keys": {},
        }
    )
    labels = Labels(taxonomy, lineage)
    x, y = labels.of("made", "x"), labels.of("made", "y")
    assert x and y and labels.of("made", "none") is None
    assert LABELS.index(x.label) == max(LABELS.index(chosen[name]) for name in "ab")  # type: ignore[arg-type]
    assert LABELS.index(y.label) == max(LABELS.index(label) for label in chosen.values())  # type: ignore[arg-type]
    assert x.retention == "short"


def test_a_model_may_use_labelled_fields_that_are_not_restricted(labels: Labels) -> None:
    used = labels.require(["sessions.revenue", "events.properties.price"], for_model=True)
    assert [field.label for field in used] == ["behavioural", "behavioural"]
    assert labels.require(["events.properties"], for_model=False)[0].label == "restricted"


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("events.properties", "events.properties is restricted, and a model may use no restricted field; leave it out"),
        ("events.mood", "events.mood has no label, and only labelled fields may be used; label it in taxonomy.yaml"),
        ("events.properties.mood", "events.properties.mood has no label, "),
        ("events.properties.traits.gender", "events.properties.traits.gender is restricted, "),
        ("moods.mood", "moods.mood has no label, "),
        ("mood", "'mood' is no field; name it as table.column"),
    ],
)
def test_a_model_that_asks_for_more_is_told_field_and_rule(labels: Labels, field: str, sentence: str) -> None:
    with pytest.raises(Unlabelled) as caught:
        labels.require(["sessions.revenue", field], for_model=True)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("text", "instead", "said_of", "says"),
    [
        ("tenant_id: operational", "tenant_id: harmless", "tenant_id: operational", "Input should be 'operational', "),
        ("user.unique_id}", "user.uniqueid}", "user_id: {label", "Fides has no category 'user.uniqueid'; take one of user, "),
        ("purpose: analytics.reporting,", "purpose: fun,", "defaults:", "Fides has no purpose 'fun'; take a name of privacy/"),
        ("retention: raw", "retention: forever", "retention: raw", "there is no retention class 'forever'; declared are raw, "),
        ("  built_days:", "  mended_days:", "  built_days:", "there is no table 'mended_days'; remove it"),
        ("      copy: {", "      kopy: {", "      copy: {", "'rejected_events' has no column 'kopy'; remove it"),
        ("  built_days:", "  users:", "  built_days:", "'users' is computed and inherits; remove it, or name it in loosened"),
        ("    online_retail:", "    offline_retail:", "    online_retail:", "there is no source 'offline_retail'; declared "),
        ("  page_views:\n", "  batches:\n", "  page_views:", "'batches' is not computed from other tables; "),
        ("bucketed, to: hours", "bucketed", "hour: {label: beh", "say `to` what buckets"),
        ("by: bucketed, to: hours", "by: aggregated, k: 2", "hour: {label: beh", "Input should be greater than or equal to 5"),
        ("to: hours, reason: the exact", "to: hours, because: the exact", "hour: {label: beh", "Field required"),
        ("hour: {label: behavioural", "hour: {label: identifier", "hour: {label: beh",
         "'hour' inherits quasi_identifier, which "),
        ("traits.birthday: {label: r", "birth.day: {label: r", "traits.birthday", "'birth.day' lies in 'birth', which has no "),
        ("cmp_visible.elapsed_time: {label: behavioural", "cmp_visible.elapsed_time: {label: restricted",
         "cmp_visible.elapsed_time", "'cmp_visible.elapsed_time' is restricted, but 'cmp_visible', which holds it, "),
        ("      copy: {", "      raw: {", "      copy: {", "'raw' is declared twice; keep one"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_one_sentence_with_file_line_and_cure(
    wrong: Wrong, text: str, instead: str, said_of: str, says: str
) -> None:
    sentence = wrong(text, instead)
    assert sentence.startswith(f"taxonomy.yaml:{_line(said_of)}: ") and says in sentence and "\n" not in sentence


def test_labels_and_purposes_go_by_the_names_of_fides() -> None:
    categories, uses = fides_names()["categories"], fides_names()["uses"]
    assert len(categories) == len(set(categories)) == 85 and len(uses) == len(set(uses)) == 55
    assert FieldLabel.model_validate({"label": "identifier", "category": "user.contact.email"}).purpose is None
