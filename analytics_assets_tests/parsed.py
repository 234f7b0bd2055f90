"""The dbt project as dbt parses it, which takes seconds: once for all processes of a test run.

Importing this takes over what stands in the folder that the environment names, if it does.
"""

import os
import shutil
import tempfile
from pathlib import Path

from analytics_assets.marts.build import manifest

# The variable that names the folder with dbt's parse cache.
PARSED = "ANALYTICS_TESTS_PARSED"


def parse(folder: Path) -> None:
    """Parse for the first time, into `folder`."""
    manifest(folder)


def take_over(folder: Path) -> None:
    """Parse by the cache of `folder`, of which dbt gets a copy, since it writes there."""
    with tempfile.TemporaryDirectory() as own:
        manifest(shutil.copytree(folder, Path(own) / "parsed"))


if PARSED in os.environ:
    take_over(Path(os.environ[PARSED]))
