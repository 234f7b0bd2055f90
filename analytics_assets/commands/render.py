"""`analytics tuning render`: what the steps of a job ask of Kubernetes or Ray, to be read, or put into a config by hand."""

from typing import Any

import click
import yaml

from analytics_assets.commands.common import DONE, settings

_KUBERNETES = """\
# As of {now:%Y-%m-%d %H:%M} UTC, for dagster-k8s' k8s_job_executor: run config of a job, for the launchpad or `run_config`.
# What is kept for a pod is enough for its first attempt, and the largest one fits below the limit; where {file} says
# `executor: kubernetes`, each attempt asks for its own instead, and none of this is needed.
# DuckDB has {most:,} MB at most, by `memory` of {file}.
"""
_RAY = """\
# As of {now:%Y-%m-%d %H:%M} UTC, for dagster-ray's ray_executor: the `op_tags` of each step (it reads none from run config),
# enough for the largest attempt; where {file} says `executor: ray`, each attempt asks for its own instead, and none of this
# is needed. DuckDB has {most:,} MB at most, by `memory` of {file}.
"""


@click.command()
@click.option("--kubernetes", "cluster", flag_value="kubernetes", help="As run config of dagster-k8s.")
@click.option("--ray", "cluster", flag_value="ray", help="As op tags of dagster-ray.")
@click.option("--job", metavar="JOB", help="Only the steps of this job.")
def render(cluster: str | None, job: str | None) -> int:
    """What is in force for each step, as a config of Kubernetes or Ray."""
    from analytics_assets.defs.executors import allotted
    from analytics_assets.defs.run import steps_of
    from analytics_assets.events.intake import utc_now
    from analytics_assets.tuning.clusters import ask, for_kubernetes, for_ray
    from analytics_assets.tuning.rules import FILE

    if cluster is None:
        raise click.UsageError("say for which cluster: --kubernetes or --ray")
    content: dict[str, Any] = {}
    most_mb = 0
    for step in steps_of(job):
        given, rules = allotted(settings(), step)
        most_mb, asked = given.most_mb, ask(given, rules.memory.pod_mb)
        content[step] = for_kubernetes(asked) if cluster == "kubernetes" else {"dagster-ray/config": for_ray(asked)}
    if cluster == "kubernetes":
        content = {"execution": {"config": {"per_step_k8s_config": content}}}
    comment = _KUBERNETES if cluster == "kubernetes" else _RAY
    click.echo(comment.format(now=utc_now(), file=FILE, most=most_mb), nl=False)
    click.echo(yaml.safe_dump(content, sort_keys=False, width=1000), nl=False)
    return DONE
