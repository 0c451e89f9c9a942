"""Section `finetune_range`: every number of one training, checked before any time is spent."""

import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from deme_core.params import check

SCHEDULES = (
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "piecewise_constant",
)  # fmt: skip

PRECISIONS = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
AUTO = "auto"
NUMBER = r"\d+(\.\d+)?"


@dataclass(frozen=True, kw_only=True)
class TrainingParams:
    """How a denoiser is trained; the same keys train a base from scratch."""

    iterations: int
    """Optimizer steps."""
    batch_size: int
    """Images a micro-batch, of all processes together, which share it out evenly."""
    gradient_accumulation: int
    """Micro-batches an optimizer step."""
    learning_rate: float | Literal["auto"]
    """Of a finetune also `auto`: see `deme_core.training.learning_rate`."""
    lr_schedule: str
    """One of SCHEDULES, the schedules of `diffusers.optimization.get_scheduler`."""
    lr_warmup: int
    """Optimizer steps of linear warm-up, for the schedules that have one."""
    lr_steps: str | None
    """`step_rules` of the schedule `piecewise_constant`: "1:1000,0.1" is factor 1 up to step 1000, then 0.1."""
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    weight_decay: float
    max_grad_norm: float
    ema_decay: float
    """Upper bound of the EMA decay; the warm-up is 1 − (1 + step)^(−3/4) (inv_gamma 1, power 3/4)."""
    consistency: float
    """Weight of the consistency loss (Eq. 5: 1); 0 skips the teacher."""
    timestep_draw: Literal["per_sample", "per_batch"]
    antithetic: bool
    projection: Literal["foldable", "released", "none"]
    dropout: float | None
    """Rate of the network's dropout layers during training; null keeps that of its config.json."""
    horizontal_flip: bool
    """Flip each training image with probability 1/2."""
    mixed_precision: Literal["no", "fp16", "bf16"]
    cpu_threads: int | None
    """Threads of a training on the CPU; null takes all cores. Results in bytes depend on it. A small U-Net gains little
    from a second thread, and loses most of its speed to it where the cores have other work."""
    report_to: Literal["tensorboard", "wandb"] | None
    log_every: int
    """Optimizer steps a row of the curve."""
    checkpoint_every: int
    """Optimizer steps between two resume states."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """A row of `deme_core.training.optimizer.OPTIMIZERS`."""
    caption_dropout: float = 0.0
    """Probability of the empty caption in training, for classifier-free guidance; of no effect without captions."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    ema_offload: bool = False
    """Keep the EMA weights in the memory of the CPU between steps."""

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        return PRECISIONS[self.mixed_precision]

    @property
    def rate(self) -> float:
        """The learning rate as a number: probes have taken the place of `auto`."""
        assert not isinstance(self.learning_rate, str), "the rate is found before a training"
        return self.learning_rate

    def of_length(self, iterations: int, **changes: Any) -> "TrainingParams":
        """The same training of other length: warm-up and step rules, which count steps, keep their share of it.

        Args:
            changes: of other keys.
        """

        def scaled(steps: int) -> int:
            return (2 * steps * iterations + self.iterations) // (2 * self.iterations)  # rounded

        rules = self.lr_steps and re.sub(r":(\d+)", lambda rule: f":{max(1, scaled(int(rule[1])))}", self.lr_steps)
        return replace(self, iterations=iterations, lr_warmup=scaled(self.lr_warmup), lr_steps=rules, **changes)

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "gradient_accumulation", "log_every", "checkpoint_every"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        check(self.cpu_threads is None or self.cpu_threads >= 1, "cpu_threads", self.cpu_threads, "must be at least 1")
        for name in ("learning_rate", "max_grad_norm", "adam_epsilon"):
            value = getattr(self, name)
            check(value == AUTO or 0 < value < math.inf, name, value, "must be a finite number above 0")
        for name in ("weight_decay", "consistency", "lr_warmup"):
            check(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "must be finite and not negative")
        check(self.dropout is None or 0 <= self.dropout < 1, "dropout", self.dropout, "must lie in [0, 1)")
        check(0 <= self.caption_dropout <= 1, "caption_dropout", self.caption_dropout, "must lie in [0, 1]")
        for name in ("ema_decay", "adam_beta1", "adam_beta2"):
            check(0 <= getattr(self, name) < 1, name, getattr(self, name), "must lie in [0, 1)")
        check(
            not (self.antithetic and self.batch_size % 2), "batch_size", self.batch_size,
            "must be even with antithetic timesteps",
        )  # fmt: skip
        check(self.lr_schedule in SCHEDULES, "lr_schedule", self.lr_schedule, f"must be one of {', '.join(SCHEDULES)}")
        check(
            (self.lr_schedule == "piecewise_constant") == (self.lr_steps is not None), "lr_steps", self.lr_steps,
            "is given with lr_schedule 'piecewise_constant', and only with it",
        )  # fmt: skip
        check(
            self.lr_steps is None or bool(re.fullmatch(rf"({NUMBER}:\d+,)*{NUMBER}", self.lr_steps)), "lr_steps",
            self.lr_steps, 'must look like "1:1000,0.1": factor 1 up to step 1000, then 0.1',
        )  # fmt: skip
        check(
            self.log_every <= self.iterations, "log_every", self.log_every,
            f"must be at most iterations = {self.iterations}, or the curve of the loss has no row",
        )  # fmt: skip
        check(
            self.checkpoint_every % self.log_every == 0, "checkpoint_every", self.checkpoint_every,
            f"must be a multiple of log_every = {self.log_every}, so that a resumed curve has the same rows",
        )  # fmt: skip
