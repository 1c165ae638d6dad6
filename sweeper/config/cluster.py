"""Where a study's workers run: the options of `cluster`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sweeper.config.marks import Live
from sweeper.config.teaching import Section


class _ClusterSection(Section):
    """What every kind of cluster has."""

    workers: Live[Annotated[int, Field(ge=1, le=100)] | None]
    grace_s: Live[Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    restarts: Live[Annotated[int, Field(ge=0)]]


class LocalClusterSection(_ClusterSection):
    name: Live[Literal["local"]]


class RayClusterSection(_ClusterSection):
    name: Live[Literal["ray"]]
    address: Live[Annotated[str, Field(min_length=1)] | None]
    accelerator: Live[Annotated[str, Field(min_length=1)] | None]
    cpus: Live[Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    resources: Live[dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]]]
    node_home: Live[Annotated[str, Field(pattern="^/")] | None]


class SlurmClusterSection(_ClusterSection):
    name: Live[Literal["slurm"]]
    executor: Live[Literal["slurm", "local"]]
    partition: Live[Annotated[str, Field(min_length=1)] | None]
    account: Live[Annotated[str, Field(min_length=1)] | None]
    gpus_per_node: Live[Annotated[int, Field(ge=0)]]
    cpus_per_task: Live[Annotated[int, Field(ge=1)]]
    mem_gib: Live[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None]
    time_min: Live[Annotated[int, Field(ge=1)]]
    signal_s: Live[Annotated[int, Field(ge=1)]]
    extra: Live[dict[str, str | int | float | bool]]


ClusterSection = Annotated[
    LocalClusterSection | RayClusterSection | SlurmClusterSection,
    Field(discriminator="name"),
]
