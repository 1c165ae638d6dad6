"""sweeper: the best QLoRA adapter for a task, on the GPU you have, for the dollars you set."""

__version__ = "0.1.0"

__all__ = ["__version__"]
