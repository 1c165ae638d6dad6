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


ClusterSection = LocalClusterSection
