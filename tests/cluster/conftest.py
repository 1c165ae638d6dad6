"""A Ray cluster of this machine, which takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

OBJECTS_BYTES = 80 * 1024**2  # Ray refuses less


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[Any]:
    """Its head has two CPUs; tests add nodes with other resources, and take them away."""
    pytest.importorskip("ray", reason="Ray is missing: pip install -e '.[dev]'")
    from sweeper.cluster import ray_cluster  # sets what Ray reads when it is imported

    assert ray_cluster
    from ray.cluster_utils import Cluster

    nodes = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "object_store_memory": OBJECTS_BYTES, "include_dashboard": False},
    )
    yield nodes
    nodes.shutdown()
