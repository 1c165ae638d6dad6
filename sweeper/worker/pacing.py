"""How long this worker's work takes on its device, beginning with what earlier workers have found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from sweeper.config.schema import Config
from sweeper.models import base
from sweeper.money import pace as paces
from sweeper.money.pace import Fit, Pace


class Pacing:
    """The pace of one device with one base and task, measured and kept.

    Args:
        folder: where paces are kept.
        device_name: as its driver names it; `cpu`.
    """

    def __init__(self, folder: Path, config: Config, device: torch.device, device_name: str) -> None:
        threads = config.engine.threads or torch.get_num_threads() if device.type == "cpu" else None
        dtype = str(base.compute_dtype(config.model, device)).removeprefix("torch.")
        self.key = paces.key(config.model.name, dtype, config.model.quant, device_name, threads, config.task.name)
        self._folder = folder
        self.pace = paces.known_pace(folder, self.key) or Pace()
        self._ticks = 0
        self._without_first = Fit()

    def ticked(self, tokens: int, seconds: float) -> None:
        """A step of the pack has trained on so many tokens.

        The first one of a process is slow for being that, and counts only until there is another.
        """
        self._ticks += 1
        if self._ticks == 1:
            self._without_first = replace(self.pace.tick)
        elif self._ticks == 2:
            self.pace.tick = self._without_first
        self.pace.tick.add(tokens, seconds)

    def keep(self) -> None:
        """Keeps what was measured for plans and for the next worker."""
        paces.keep_pace(self._folder, self.key, self.pace)
