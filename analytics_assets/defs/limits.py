"""The limits of a step while it runs: what is in force for it, its share of the machine's memory, and more of it for the next
attempt where it was not enough. A step asks for none of this: it stands around its connection.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import dagster as dg

from analytics_assets.settings import Settings, UserError
from analytics_assets.telemetry.probe import machine_memory
from analytics_assets.tuning.classes import input_class
from analytics_assets.tuning.clusters import told
from analytics_assets.tuning.in_force import NotEnoughMemory, ResourceConfig, read_in_force
from analytics_assets.tuning.rules import FILE, TuningRules
from analytics_assets.warehouse.home import Home
from analytics_assets.warehouse.leases import NoRoom, memory

_MB = 1_000_000


@contextmanager
def granted(preset: ResourceConfig) -> Iterator[ResourceConfig]:
    """Around the connection of a step: the config in force, whose `memory_mb` is that of this attempt; `preset` outside of one.

    Holds that memory out of what steps share. Raises RetryRequested for an attempt that ran out of memory and can have
    more, NotEnoughMemory if there is no more.
    """
    try:
        context = dg.OpExecutionContext.get()
    except dg.DagsterInvariantViolationError:
        yield preset
        return
    # Imported with whatever opens a connection.
    from duckdb import OutOfMemoryException

    from analytics_assets.defs import inputs
    from analytics_assets.warehouse import meter

    settings, step, attempt = Settings.from_env(), str(context.op_handle), context.retry_number + 1
    rules: TuningRules = TuningRules.load(settings.config / FILE)
    budget = rules.memory.budget(machine_memory() // _MB)
    most = budget - rules.memory.process_mb
    before = inputs.given(context, settings)
    meter.given(before.bytes, before.rows)
    launched = told(os.environ)
    if launched is not None:
        config, most = launched.config, launched.most_mb
    else:
        config = _in_force(context, settings, step, preset, rules, most, input_class(before.bytes))
    this = config.memory_of(attempt)
    if this > most:
        raise NotEnoughMemory(_too_much(step, this, most))
    wait = rules.memory.wait_minutes * 60
    # A cluster has kept the memory for this process before it began.
    room = nullcontext() if launched is not None else memory(
        Home(settings.home), f"{step} of run {context.run_id[:8]}", this + rules.memory.process_mb, budget,
        wait_seconds=wait, waits=context.log.info,
    )  # fmt: skip
    try:
        with room:
            yield replace(config, memory_mb=this)
    except NoRoom as error:
        raise UserError(f"{step}: {error}; run it again when they have ended, or raise `wait_minutes` of {FILE}") from error
    except (OutOfMemoryException, MemoryError) as error:
        if attempt >= config.attempts:
            raise NotEnoughMemory(_not_enough(step, config, most)) from error
        context.log.warning(f"{step} ran out of {this:,} MB; it is tried again with {config.memory_of(attempt + 1):,} MB")
        raise dg.RetryRequested(max_retries=config.attempts - 1) from error


def _in_force(
    context: dg.OpExecutionContext, settings: Settings, step: str, preset: ResourceConfig, rules: TuningRules, most: int,
    of_class: str | None,
) -> ResourceConfig:  # fmt: skip
    from analytics_assets.events.intake import utc_now

    known = read_in_force(Home(settings.home))
    if known.fault is not None:
        context.log.warning(f"{known.fault}: {step} has what limits.yaml says; `analytics tuning decide` writes it anew")
    # Of what was chosen for another machine, no attempt may want more than this one has.
    return known.of(step, preset, utc_now(), of_class).within(rules.out_of_memory, most)


def _too_much(step: str, wanted: int, most: int) -> str:
    return (
        f"{step} is to have {wanted:,} MB, and steps have {most:,} MB on this machine; "
        f"give it less (limits.yaml, or `analytics tuning pin`), or steps more (`memory` of {FILE})"
    )


def _not_enough(step: str, config: ResourceConfig, most: int) -> str:
    tried = ", ".join(f"{config.memory_of(attempt):,}" for attempt in range(1, config.attempts + 1))
    cure = (
        f"that is all that steps have on this machine (`memory` of {FILE}): ask for less at once, such as fewer days"
        if config.memory_of(config.attempts) >= most
        else f"ask for less at once, such as fewer days, or give it more: `analytics tuning pin {step} --memory-mb ...`"
    )
    return f"{step} ran out of memory with {tried} MB; {cure}"
