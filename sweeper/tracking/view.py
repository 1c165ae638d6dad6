"""What MLflow's pages show of a study's experiment: which columns its table of runs has, and in which order.

MLflow keeps a view that somebody shares as a tag of the experiment, and opens it by an address with the view's key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.config.schema import Config

# Which pages an experiment opens on: MLflow 3.17 goes by the address instead, earlier ones by this.
EXPERIMENT_KIND, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"
VIEW_KEY = "sweeper"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"


@dataclass(frozen=True)
class RunsView:
    """The table of an experiment's runs.

    Attributes:
        columns: as MLflow names them, such as "metrics.`accuracy`".
        order_by: the column that decides.
    """

    columns: Sequence[str]
    order_by: str
    is_ascending: bool

    @classmethod
    def of(cls, config: Config) -> RunsView:
        """The value and what it cost, what was searched, and how each ended; the best trial first."""
        metric = config.objective.metric_name
        names = ["best_value", metric, "cost/usd", "duration_s", "vram/peak_gib_max", "throughput/tokens_per_s_mean"]
        params = list(config.search.space)
        tags = ["sweeper.state", "sweeper.reason", "sweeper.pack_size"]
        columns = [f"metrics.`{name}`" for name in names] + [f"params.`{name}`" for name in params]
        columns += [f"tags.`{name}`" for name in tags]
        return cls(columns, "metrics.`best_value`", config.objective.is_minimized)

    def as_json(self) -> str:
        """As MLflow reads it from the tag: what is left out is as it is by default."""
        return json.dumps(
            {"selectedColumns": list(self.columns), "orderByKey": self.order_by, "orderByAsc": self.is_ascending}
        )


def address(server: str, experiment_id: str) -> str:
    """Where MLflow shows that view of an experiment, among its pages on training and not on agents."""
    return f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW_KEY}"
