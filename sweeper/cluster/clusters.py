"""Which cluster a study's workers run on."""

from __future__ import annotations

import importlib.util

from sweeper.cluster.cluster import Cluster
from sweeper.cluster.local import LocalCluster
from sweeper.config.cluster import RayClusterSection, SlurmClusterSection
from sweeper.config.schema import Config
from sweeper.errors import ConfigError
from sweeper.paths import StudyPaths


def cluster_of(paths: StudyPaths, config: Config, launched_s: float) -> Cluster:
    """Makes what `cluster` says.

    Args:
        launched_s: when the launcher began, in seconds since 1970.

    Raises:
        ConfigError: if it cannot run what is asked for.
    """
    if isinstance(config.cluster, RayClusterSection):
        _needs("ray", "ray")
        from sweeper.cluster.ray_cluster import RayCluster

        return RayCluster(paths, config)
    if isinstance(config.cluster, SlurmClusterSection):
        _needs("slurm", "submitit")
        from sweeper.cluster.slurm import SlurmCluster

        return SlurmCluster(paths, config)
    return LocalCluster(paths, config, launched_s)


def _needs(name: str, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"cluster: {name} needs {package}, which is not installed: pip install 'sweeper[{name}]'")
