"""Where the steps of a run go, as `tuning.yaml` declares it: into the process of the run, or each attempt into a pod of
Kubernetes or a job of Ray. There it asks for what is in force for it at that moment, by the executors of dagster-k8s and
dagster-ray, which are handed the config of one attempt at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

import dagster as dg
from dagster._core.events import EngineEventData
from dagster._core.executor.step_delegating import CheckStepHealthResult, StepHandler, StepHandlerContext

from analytics_assets.settings import ConfigError, Settings
from analytics_assets.telemetry.probe import machine_memory
from analytics_assets.tuning.clusters import VARIABLE, Allotment, Ask, allotment, ask, for_kubernetes, for_ray, merged
from analytics_assets.tuning.in_force import ResourceConfig, read_in_force
from analytics_assets.tuning.rules import FILE, Executor, TuningRules
from analytics_assets.warehouse.home import Home

# Where a job of Ray finds the data home; of a name alone dagster-ray takes the value that the process of the run has.
_PLACES = ("DAGSTER_HOME", "ANALYTICS_HOME", "ANALYTICS_CONFIG", "ANALYTICS_KEYS")

# The config of an executor with what one attempt of a step asks for; the step by the name of its op.
Sized = Callable[[Mapping[str, Any], str, Ask], dict[str, Any]]


def declared_executor() -> dg.ExecutorDefinition:
    """The executor that `tuning.yaml` names. Raises ConfigError if it is not installed."""
    chosen: Executor = TuningRules.load(Settings.from_env().config / FILE).executor
    if chosen == "in_process":
        return dg.in_process_executor
    module, name, sized = _CLUSTERS[chosen]
    try:
        library = getattr(import_module(module), name)
    except ModuleNotFoundError:
        raise ConfigError(
            f"{FILE}: `executor: {chosen}` needs what is not installed here; install `analytics_assets[{chosen}]`, or say "
            "`executor: in_process`"
        ) from None
    return _asking(library, sized)


def kubernetes_config(config: Mapping[str, Any], step: str, asked: Ask) -> dict[str, Any]:
    """The config of dagster-k8s' executor; what it says of this step itself wins."""
    said = config.get("per_step_k8s_config", {})
    return {**config, "per_step_k8s_config": {**said, step: merged(for_kubernetes(asked), said.get(step, {}))}}


def ray_config(config: Mapping[str, Any], step: str, asked: Ask) -> dict[str, Any]:
    """The config of dagster-ray's executor, which has none by step: what it says is said for one step."""
    said = config.get("ray") or {}
    told = [*_PLACES, *(said.get("env_vars") or ()), f"{VARIABLE}={asked.told}"]
    return {**config, "ray": {**said, **for_ray(asked), "env_vars": told}}


_CLUSTERS: dict[Executor, tuple[str, str, Sized]] = {
    "kubernetes": ("dagster_k8s", "k8s_job_executor", kubernetes_config),
    "ray": ("dagster_ray", "ray_executor", ray_config),
}


def allotted(settings: Settings, step: str) -> tuple[Allotment, TuningRules]:
    """What is in force for a step now, and the rules by which it is. Raises NotEnoughMemory, ConfigError."""
    from analytics_assets.events.intake import utc_now

    rules: TuningRules = TuningRules.load(settings.config / FILE)
    storage, known = settings.limits.storage, read_in_force(Home(settings.home))
    preset = ResourceConfig(storage.memory_mb, storage.threads, source=storage.config_source)
    most_mb = rules.memory.budget(machine_memory() // 1_000_000) - rules.memory.pod_mb
    return allotment(step, known, preset, rules, most_mb, utc_now()), rules


class _Asking(StepHandler):
    """Hands each attempt of a step to a handler of the library that was made with the config of this attempt."""

    def __init__(self, make: Callable[[Mapping[str, Any]], StepHandler], config: Mapping[str, Any], sized: Sized) -> None:
        self._make, self._config, self._sized = make, config, sized
        self._any = make(config)

    @property
    def name(self) -> str:
        return self._any.name

    def launch_step(self, context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        arguments = context.execute_step_args
        (key,) = arguments.step_keys_to_execute or ()
        within = context.get_step_context(key)
        before = arguments.known_state.get_retry_state().get_attempt_count(key) if arguments.known_state else 0
        given, rules = allotted(Settings.from_env(), str(within.step.node_handle))
        asked = ask(given, rules.memory.pod_mb, before + 1)
        yield dg.DagsterEvent.engine_event(within, said(key, given.config, before + 1, asked), EngineEventData())
        yield from self._make(self._sized(self._config, within.step.op_name, asked)).launch_step(context)

    def check_step_health(self, context: StepHandlerContext) -> CheckStepHealthResult:
        return self._any.check_step_health(context)

    def terminate_step(self, context: StepHandlerContext) -> Iterator[dg.DagsterEvent]:
        return self._any.terminate_step(context)


def said(step: str, config: ResourceConfig, attempt: int, asked: Ask) -> str:
    """What an attempt asks for, in a sentence."""
    cpus = f"{asked.cpus} {'processor' if asked.cpus == 1 else 'processors'}"
    return (
        f"{step} asks for {asked.limit_mb:,} MB, {config.memory_of(attempt):,} of them for DuckDB, and {cpus} ({config.source})"
    )


def _asking(library: dg.ExecutorDefinition, sized: Sized) -> dg.ExecutorDefinition:
    """The executor of a library with `_Asking` in the place of its handler of steps; all else is as it was."""
    create = library.executor_creation_fn
    assert create is not None

    def created(init: dg.InitExecutorContext) -> Any:
        def handler(config: Mapping[str, Any]) -> StepHandler:
            made: Any = create(init._replace(executor_config=config))
            return made._step_handler

        executor: Any = create(init)
        executor._step_handler = _Asking(handler, init.executor_config, sized)
        return executor

    schema: Any = library.config_schema
    return dg.ExecutorDefinition(library.name, schema, library.get_requirements, created, library.description)
