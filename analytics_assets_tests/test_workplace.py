"""The database in which dbt works names people: it is gone when a build ends, however it ends."""

import pytest

from analytics_assets.workplace import work_db
from analytics_assets_tests.builders import DAY, Line, an_event


def test_a_build_that_fails_leaves_no_database_and_nothing_that_it_spilled(line: Line) -> None:
    line.load([an_event(user_id="ann")])
    line.sessions()
    stages, version = line.pipeline, line.pipeline.built_version()
    storage, shown = stages.settings.limits.storage, stages.consents.shown_events
    with pytest.raises(ArithmeticError), work_db(stages.home, stages.table, [DAY], version, storage, shown) as path:
        assert b"ann" in path.read_bytes()
        path.with_name(f"{path.name}.wal").touch()
        path.with_name(f"{path.name}.tmp").mkdir()
        raise ArithmeticError
    assert [*stages.home.work.glob("marts*")] == []
