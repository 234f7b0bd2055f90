"""Published versions that still show who went: they leave when their readers did, and at the latest after a grace.

So do files of roles that are still of such a version, since they could not be made anew.
"""

import time
from collections.abc import Callable

from analytics_assets.privacy.role_files import remove_older
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.publish import PUBLISH_LOCK, current_version, has_readers, version_path, versions

# How long readers may keep an older version open.
GRACE_SECONDS = 60.0


def remove_versions(
    home: Home, shown: int, plan: Callable[[int], None], progress: Callable[[str], None] = lambda text: None,
    grace_seconds: float = GRACE_SECONDS,
) -> bool | None:  # fmt: skip
    """Remove every version but the one that is shown; returns whether some reader had one open until the end of the grace.

    Such a reader goes on with what DuckDB copied into that version; of its views the files go. None, and nothing is removed,
    if another version is shown when the readers are gone: somebody rolled back meanwhile.
    """
    old = [number for number in versions(home) if number != shown]
    read = wait_for_readers(home, old, progress, grace_seconds)
    with home.lock(PUBLISH_LOCK):
        if (current_version(home) or 0) < shown:
            return None
        for number in old:
            plan(number)
            version_path(home, number).unlink(missing_ok=True)
        # What a publish that was killed left of one.
        for leftover in home.published.rglob("*.staged*"):
            leftover.unlink(missing_ok=True)
        remove_older(home, shown)
    return read


def wait_for_readers(home: Home, old: list[int], progress: Callable[[str], None], grace_seconds: float) -> bool:
    """Whether a version still has a reader after so long."""
    until = time.monotonic() + grace_seconds
    told = False
    while any(path.exists() and has_readers(path) for path in (version_path(home, number) for number in old)):
        if time.monotonic() >= until:
            return True
        if not told:
            progress(f"waiting up to {grace_seconds:.0f} s for readers of an older version")
            told = True
        time.sleep(0.2)
    return False
