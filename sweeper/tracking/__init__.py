"""How the runs of a study are tracked: in MLflow, here or on a server."""

import os

# Before MLflow is imported, by whichever module, which reads them once: nobody is told of its use, and it prints
# neither the address of each run that ends nor a bar for each file.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
