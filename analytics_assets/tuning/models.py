"""Models: what was learned for each step, in files of one version each, and which of them is in use.

A model is small, what it learned: the memory of the first attempt and of those after it, and how it did against the preset. A
file that is missing, corrupt or from another version counts as no model, and the reason is told.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from analytics_assets.tuning.in_force import attempt_sizes, folder
from analytics_assets.warehouse.home import Home, replace_file

FORMAT = 1


@dataclass(frozen=True)
class LearnedClass:
    """What a model says of the runs of a step whose input is of one class, as `Learned` does of all others.

    `saving` is over what they would have like all others.
    """

    requests_mb: tuple[int, ...]
    label: str
    runs: int
    judged: int
    saving: float


@dataclass(frozen=True)
class Learned:
    """What a model says of a step. `requests_mb` ascend: of the first attempt, and of each after one that ran out of memory.

    `saving` is the part of the preset's memory times time that it would have saved in the `judged` runs, which it had not
    seen, failed attempts included; `lower` and `upper` are the ends of its interval. `others` are the next best, in words;
    `classes` are those of the input for which it says something else, which `saving` counts in.
    """

    requests_mb: tuple[int, ...]
    label: str
    runs: int
    judged: int
    saving: float
    lower: float
    upper: float
    others: tuple[str, ...] = ()
    classes: Mapping[str, LearnedClass] = field(default_factory=dict)

    def requests_of(self, name: str | None) -> tuple[int, ...]:
        """What the runs of a class of input ask for; None: nobody knows the class."""
        known = self.classes.get(name) if name else None
        return known.requests_mb if known else self.requests_mb


@dataclass(frozen=True)
class Model:
    """A version. `before` is the one that was in use when it was promoted, 0 for none."""

    version: int
    before: int
    made_at: datetime
    steps: Mapping[str, Learned]


@dataclass(frozen=True)
class InUse:
    """The model in use. None: there is none; `fault` says why, where there should be one."""

    model: Model | None
    fault: str | None = None

    @property
    def version(self) -> int:
        return self.model.version if self.model else 0


def in_use(home: Home) -> InUse:
    """The model that was promoted last, or gone back to."""
    try:
        version = int(json.loads((_folder(home) / "in_use.json").read_text(encoding="utf-8"))["version"])
    except FileNotFoundError:
        return InUse(None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return InUse(None, f"which model is in use cannot be read ({type(error).__name__}); steps have their presets")
    return read(home, version) if version else InUse(None)


def read(home: Home, version: int) -> InUse:
    """A version, whether it is in use or not."""
    path = _path(home, version)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["format"], content["version"]) != (FORMAT, version):
            return InUse(None, f"model {version} is of another format; steps have their presets")
        return InUse(_model(content))
    except FileNotFoundError:
        return InUse(None, f"model {version} is not there; steps have their presets")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return InUse(None, f"model {version} cannot be read ({type(error).__name__}); steps have their presets")


def versions(home: Home) -> list[int]:
    return sorted(int(path.stem) for path in _folder(home).glob("*.json") if path.stem.isdigit())


def promote(home: Home, steps: Mapping[str, Learned], now: datetime) -> Model:
    """Keep a new version and use it. Callers hold a lock."""
    model = Model(max(versions(home), default=0) + 1, in_use(home).version, now, dict(steps))
    content = {**asdict(model), "format": FORMAT, "made_at": now.isoformat()}
    _write(_path(home, model.version), content)
    use(home, model.version)
    return model


def use(home: Home, version: int) -> None:
    """Use another version; 0: none, so that steps have their presets. Callers hold a lock."""
    _write(_folder(home) / "in_use.json", {"version": version})


def _folder(home: Home) -> Path:
    return folder(home) / "models"


def _path(home: Home, version: int) -> Path:
    return _folder(home) / f"{version:05d}.json"


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_text(json.dumps(content, indent=1), encoding="utf-8")
    replace_file(new, path)


def _model(content: Mapping[str, Any]) -> Model:
    steps = {step: _learned(one) for step, one in content["steps"].items()}
    return Model(content["version"], content["before"], datetime.fromisoformat(content["made_at"]), steps)


def _learned(one: Mapping[str, Any]) -> Learned:
    # A model from before there were classes has none.
    classes = {
        name: LearnedClass(**{**known, "requests_mb": attempt_sizes(tuple(known["requests_mb"]))})
        for name, known in one.get("classes", {}).items()
    }
    changed = {"requests_mb": attempt_sizes(tuple(one["requests_mb"])), "others": tuple(one["others"]), "classes": classes}
    return Learned(**{**one, **changed})
