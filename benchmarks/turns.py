"""Two data homes that load in turns: `python -m benchmarks.turns CONFIG YOUNG OLD AT_YOUNG AT_OLD FILE...`.

YOUNG holds the first AT_YOUNG files already and OLD the first AT_OLD; each goes on from there. Taking turns, both meet the
same other work on the machine. Prints one JSON line a pair of batches: processor seconds of each.
"""

import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from analytics_assets.pipeline import Pipeline
from analytics_assets.settings import Settings
from benchmarks.generator import START
from benchmarks.ours import cpu_seconds

PAIRS = 11


def main(config: Path, homes: Sequence[Path], begun: Sequence[int], files: Sequence[Path]) -> None:
    pipelines = [Pipeline(Settings(home, config)) for home in homes]
    with pipelines[0].connect() as young, pipelines[1].connect() as old:
        for pair in range(PAIRS):
            spent = []
            for pipeline, con, first in zip(pipelines, (young, old), begun, strict=True):
                number = first + pair
                before = cpu_seconds()
                pipeline.load(con, files[number], "canonical", None, START + timedelta(hours=number + 1, minutes=1))
                spent.append(cpu_seconds() - before)
            print(json.dumps({"young": spent[0], "old": spent[1]}), flush=True)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]), [Path(name) for name in sys.argv[2:4]], [int(number) for number in sys.argv[4:6]],
        [Path(name) for name in sys.argv[6:]],
    )  # fmt: skip
