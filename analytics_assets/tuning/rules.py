"""What is declared of the resources of steps (`tuning.yaml`): modes, the memory that steps share, and what follows when it was
not enough. Light, so that definitions load without a library for numbers."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from analytics_assets.settings import Declared

Mode = Literal["observe", "advise", "act"]
Executor = Literal["in_process", "kubernetes", "ray"]
FILE = "tuning.yaml"


class MemoryRules(Declared):
    """The memory of one machine, which the steps that go at once share."""

    share: float = Field(0.8, ge=0.1, le=1, description="Part of the machine's memory that steps may have together.")
    budget_mb: int | None = Field(None, ge=256, le=16_777_216, description="MB instead of that share.")
    process_mb: int = Field(300, ge=0, le=65_536, description="MB that the process of a step holds beside DuckDB.")
    pod_mb: int = Field(700, ge=0, le=65_536, description="The same of a pod or Ray job; Kubernetes ends it for more.")
    wait_minutes: float = Field(60, ge=0, le=24 * 60, description="Minutes that a step waits for memory before it fails.")

    def budget(self, machine_mb: int) -> int:
        """MB that all steps together may have on a machine with so much."""
        return int(machine_mb * self.share) if self.budget_mb is None else self.budget_mb


class OutOfMemory(Declared):
    """What follows when a step ran out of memory."""

    retries: int = Field(2, ge=0, le=10, description="Attempts after the first; 0 gives up at once.")
    multiplier: float = Field(2, gt=1, le=10, description="Memory of an attempt over that of the one before.")


class LicenceRules(Declared):
    """What must be known of a step before tuning may say or do something. Weeks count if the step ran in each of them."""

    advise_weeks: int = Field(2, ge=1, le=52, description="Weeks of telemetry before there is advice.")
    act_weeks: int = Field(4, ge=4, le=52, description="Weeks of telemetry before advice may be applied.")
    baseline_runs: int = Field(10, ge=5, le=1000, description="Runs that a baseline stands on.")

    @model_validator(mode="after")
    def _in_order(self) -> "LicenceRules":
        if self.advise_weeks > self.act_weeks:
            raise ValueError(f"advice after {self.advise_weeks} weeks is later than acting; lower advise_weeks")
        return self


class EffectRules(Declared):
    """When a change counts as measured, and as worse."""

    least_runs: int = Field(5, ge=3, le=1000, description="Runs after a change before it is judged at all.")
    keep_runs: int = Field(20, ge=5, le=1000, description="Runs after which a change that made nothing worse is kept.")
    most_runs: int = Field(60, ge=20, le=500, description="Newest runs of the baseline that it is held against.")
    error: float = Field(0.01, ge=0.0001, le=0.2, description="Chance with each look to call worse what is not.")

    @model_validator(mode="after")
    def _in_order(self) -> "EffectRules":
        if self.least_runs > self.keep_runs:
            raise ValueError(f"a change is kept after {self.keep_runs} runs, before it is judged; lower least_runs")
        return self


class TimeoutRules(Declared):
    """When an attempt of a step is ended since it takes much longer than such runs do."""

    margin: float = Field(3, ge=1.5, le=100, description="Timeout over the bound that 95 of 100 such runs stay under.")
    least_minutes: float = Field(10, gt=0, le=7 * 24 * 60, description="Minutes that every attempt has.")
    least_runs: int = Field(20, ge=10, le=1000, description="Runs with a class of input that have to be over.")


class TuningRules(Declared):
    """The file."""

    executor: Executor = Field("in_process", description="Where steps run: with their run, or each in a pod or Ray job.")
    mode: Mode = Field("advise", description="Whether steps are only measured, advised, or given what was learned.")
    steps: dict[str, Mode] = Field({}, description="The mode of single steps.")
    deadlines: dict[str, Annotated[float, Field(gt=0)]] = Field({}, description="Minutes that a step may take, by step.")
    worth: float = Field(0.05, ge=0, le=0.9, description="Part of the memory; a change by less is not worth it.")
    memory: MemoryRules = MemoryRules()
    out_of_memory: OutOfMemory = OutOfMemory()
    licence: LicenceRules = LicenceRules()
    effect: EffectRules = EffectRules()
    timeouts: TimeoutRules = TimeoutRules()

    @model_validator(mode="after")
    def _largest_step(self) -> "TuningRules":
        if self.executor != "in_process" and self.memory.budget_mb is None:
            raise ValueError(f"what a step of {self.executor} may ask for at most is not said; add `budget_mb` to `memory`")
        return self

    @property
    def beside_mb(self) -> int:
        """MB that the process of a step holds beside DuckDB, where steps run."""
        return self.memory.process_mb if self.executor == "in_process" else self.memory.pod_mb

    def deadline(self, step: str) -> float | None:
        """Seconds that a step may take; None: nobody said."""
        return self.deadlines[step] * 60 if step in self.deadlines else None

    def mode_of(self, step: str) -> Mode:
        return self.steps.get(step, self.mode)
