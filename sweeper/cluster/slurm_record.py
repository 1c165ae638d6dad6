"""Which jobs a study's workers are, kept in its folder for a launcher that comes later, and for the jobs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from sweeper.errors import StoreError
from sweeper.paths import StudyPaths, write_atomically


@dataclass
class Record:
    """The jobs of one study.

    Attributes:
        executor: what they were submitted to.
        jobs: the latest of each worker, by its index.
        stopped: jobs that were asked to end, which do not queue again.
    """

    executor: str = "slurm"
    jobs: dict[str, str] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, paths: StudyPaths) -> Record:
        """What is kept; nothing where there is no such file.

        Raises:
            StoreError: if it cannot be read.
        """
        try:
            return cls(**json.loads(paths.jobs.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(
                f"{paths.jobs} must say which jobs the study's workers are, but it cannot be read: {error}. "
                "`squeue --me` lists those that run; end them, and delete the file"
            ) from error

    def write(self, paths: StudyPaths) -> None:
        write_atomically(paths.jobs, json.dumps(asdict(self), indent=1))
