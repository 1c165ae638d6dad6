"""The rows that a run used, as MLflow's dataset inputs: names, hashes and counts, and no text."""

from __future__ import annotations

import json

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from sweeper.tracking.tracker import DatasetUse

DIGEST_LENGTH = 16  # of a hash; MLflow takes 36


def as_input(used: DatasetUse) -> DatasetInput:
    """As MLflow shows it in its column of datasets."""
    dataset = Dataset(
        name=used.name,
        digest=used.sha256[:DIGEST_LENGTH],
        source_type=used.source_type,
        source=json.dumps({"name": used.source}),
        schema=json.dumps({"columns": list(used.columns)}),
        profile=json.dumps({"num_rows": used.rows, "sha256": used.sha256}),
    )
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, used.context)])
