"""Dynamic loss scaling, a slot at a time: what training in float16 needs, whose numbers end at 65,504.

A gradient in float16 is lost where it is below 6e-8. So a slot's loss is multiplied with its scale before the
backward, and its gradient divided by it before anything else happens to it. Where the scaled gradient is not finite,
the slot skips the step, its weights and moments stay, and its scale is halved; after 2,000 finite steps it is doubled.
The numbers are those of `torch.amp.GradScaler`, which has one scale for a whole model: here neighbours do not notice.

A skipped step is a step all the same: its examples are read, its learning rate is past, and the evaluation comes when
it comes for every trial of the study. AdamW alone does not count it, as its moments have not seen it.
"""

from __future__ import annotations

import math

from pydantic import BaseModel

INITIAL = 2.0**16
INTERVAL_STEPS = 2000  # finite ones, after which a larger scale is tried
LOWEST = 1.0  # a gradient that overflows without being enlarged is too large in itself: the trial has diverged


class LossScale(BaseModel):
    """The scale of one slot, and what it depends on."""

    value: float = INITIAL
    finite_steps: int = 0  # since the scale last changed
    skipped_steps: int = 0

    def note(self, loss: float, grad_norm: float) -> bool:
        """Takes in how a step went.

        Args:
            loss: before it was scaled; one that is not finite has nothing to do with the scale.

        Returns:
            Whether the step was skipped for the scale alone: the trial has not diverged.
        """
        if not math.isfinite(loss):
            return False
        if not math.isfinite(grad_norm):
            self.value /= 2
            self.finite_steps = 0
            self.skipped_steps += 1
            return self.value >= LOWEST
        self.finite_steps += 1
        if self.finite_steps == INTERVAL_STEPS:
            self.value *= 2
            self.finite_steps = 0
        return False
