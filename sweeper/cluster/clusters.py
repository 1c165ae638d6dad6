"""Which cluster the settings name."""

from __future__ import annotations

from sweeper.cluster.cluster import Cluster
from sweeper.cluster.local import LocalCluster
from sweeper.config.schema import Config
from sweeper.paths import StudyPaths


def cluster_of(paths: StudyPaths, config: Config, launched_s: float) -> Cluster:
    """The cluster of a study.

    Args:
        launched_s: when the launcher began, in seconds since 1970.

    Raises:
        ConfigError: if it cannot run the workers that are asked for.
    """
    return LocalCluster(paths, config, launched_s)
