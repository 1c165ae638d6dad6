"""What a study has to say, for persons: its sentences, its report, and the description of its run in MLflow."""
