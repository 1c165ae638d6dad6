-- Read once, when the volume is new. One for Optuna and one for MLflow: both call a table alembic_version.
CREATE DATABASE optuna;
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_auth;
