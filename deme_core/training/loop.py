"""The training loop: one denoiser, one range of timesteps, exact resume (Eq. 5 and 6)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn
from tqdm.auto import tqdm

from deme_core.data.examples import Examples
from deme_core.errors import InputError
from deme_core.seeds import step_seed
from deme_core.timesteps import draw_timesteps
from deme_core.training.losses import consistency_loss, denoising_loss, regression_target
from deme_core.training.optimizer import make_optimizer
from deme_core.training.resume import load_state, save_state
from deme_core.training.settings import TrainingParams
from deme_core.work import only_one

Curve = list[dict[str, float]]
ROW = ("step", "loss", "denoising", "consistency", "lr")  # of a curve


def train(
    model: nn.Module,
    noise_schedule: Any,
    examples: Examples,
    params: TrainingParams,
    *,
    own: tuple[int, int],
    p: float,
    seed: int,
    label: str,
    state: Path,
    teacher: nn.Module | None = None,
    loss_weights: torch.Tensor | None = None,
    snapshot: Callable[[int, nn.Module], None] | None = None,
    snapshot_every: int = 0,
) -> Curve:
    """Train `model` in place; it ends with its EMA weights, in eval mode.

    Args:
        examples: what x_0 and its condition are drawn from.
        own: [low, high) of the range that is trained.
        p: probability of drawing a timestep from the full range (Eq. 6).
        label: names this training in messages and in the seeds of its draws.
        state: folder of the resume state; a finished state there is exported again without training.
        teacher: the pretrained model θ of the consistency loss; stays as it is. Needed if params.consistency > 0.
        loss_weights: weight of the loss at each timestep, [T] >= 0; None weighs all alike.
        snapshot: called with (step, model holding its EMA weights) every `snapshot_every` steps.

    Returns:
        One row every `log_every` steps: step, loss, denoising, consistency (means since the last row, weighted as
        trained), lr.

    Raises:
        InputError: the loss became NaN or infinite (no state is saved from then on), or the folder is locked.
    """
    accelerator = Accelerator(
        mixed_precision=params.mixed_precision,
        gradient_accumulation_steps=params.gradient_accumulation,
        log_with=params.report_to,
        project_dir=str(state) if params.report_to else None,
    )
    if accelerator.device.type == "cpu" and params.cpu_threads is not None:
        torch.set_num_threads(params.cpu_threads)
    with only_one(state):
        return _Training(
            accelerator, model, noise_schedule, examples, params, own, p, seed, label, state, teacher, loss_weights,
            snapshot, snapshot_every,
        ).run()  # fmt: skip


class _Training:
    """The moving parts of one training, so that each step of the loop is one line."""

    def __init__(
        self, accelerator, model, noise_schedule, examples, params, own, p, seed, label, state, teacher, loss_weights,
        snapshot, snapshot_every,
    ):  # fmt: skip
        self.accelerator, self.params, self.schedule = accelerator, params, noise_schedule
        self.own, self.p, self.seed, self.label, self.state = own, p, seed, label, state
        self.snapshot, self.snapshot_every = snapshot, snapshot_every
        self.device = accelerator.device
        self.raw: Any = model.to(self.device).train()
        if params.gradient_checkpointing:
            self.raw.enable_gradient_checkpointing()
        if params.dropout is not None:
            for module in self.raw.modules():
                if isinstance(module, nn.Dropout):
                    module.p = params.dropout
        self.teacher = None
        if params.consistency > 0:
            assert teacher is not None, "a consistency loss needs its teacher"
            self.teacher = teacher.to(self.device).eval().requires_grad_(False)
        self.T = noise_schedule.config.num_train_timesteps
        self.examples = examples.to(self.device)
        self.loss_weights = None if loss_weights is None else loss_weights.float().to(self.device)
        self.optimizer: Any = make_optimizer(self.raw.parameters(), params)
        self.ema = EMAModel(
            self.raw.parameters(),
            decay=params.ema_decay,
            use_ema_warmup=True,
            inv_gamma=1.0,
            power=0.75,
            foreach=True,
        )
        # Only the schedule's formula is used: the rate is a function of the step, so that a resume needs no state.
        self.lr_factor = get_scheduler(
            params.lr_schedule, torch.optim.SGD([torch.zeros(1)], lr=1.0),
            step_rules=params.lr_steps, num_warmup_steps=params.lr_warmup, num_training_steps=params.iterations,
        ).lr_lambdas[0]  # fmt: skip
        self.curve: Curve = []
        self.first = 0
        if progress := load_state(state, self.raw, self.ema, self.optimizer):
            self.first = progress["step"]
            self.curve = [{key: row[key] for key in ROW} for row in progress["curve"]]  # JSON sorted its keys
            if accelerator.scaler:
                accelerator.scaler.load_state_dict(progress["scaler"])
        self.net, self.optimizer = accelerator.prepare(self.raw, self.optimizer)
        self._reset_sums()
        self.shuffled = -1, torch.empty(0, dtype=torch.long)
        self.first_bad = torch.full((), -1, device=self.device)

    def run(self) -> Curve:
        self._start_trackers()
        steps = range(self.first + 1, self.params.iterations + 1)
        main = self.accelerator.is_main_process
        bar = tqdm(
            steps,
            desc=self.label,
            initial=self.first,
            total=self.params.iterations,
            disable=not main,
            unit="step",
        )
        for step in bar:
            self._step(step)
            self._step_ema()
            if step % self.params.log_every == 0:
                self._log(step, bar)
            if step % self.params.checkpoint_every == 0 or step == self.params.iterations:
                self._refuse_bad_loss(step)
                self._refuse_bad_weights(step)
                if main:
                    save_state(self.state, self.raw, self.ema, self.optimizer.optimizer, self._progress(step))
            if self.snapshot and main and step % self.snapshot_every == 0:
                self._snapshot(step)
        self.ema.copy_to(self.raw.parameters())
        self.raw.eval()
        self.accelerator.end_training()
        return self.curve

    def _progress(self, step: int) -> dict[str, Any]:
        scaler = self.accelerator.scaler  # the loss scale of fp16
        return {"step": step, "curve": self.curve, "scaler": scaler.state_dict() if scaler else None}

    def _step(self, step: int) -> None:
        """One optimizer step over `gradient_accumulation` micro-batches."""
        lr = self.params.learning_rate * self.lr_factor(step - 1)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        for micro in range(self.params.gradient_accumulation):
            with self.accelerator.accumulate(self.net):
                generator = self._generator(step, micro)
                x0, condition = self.examples.draw(
                    self._index(step, micro), generator,
                    flip=self.params.horizontal_flip, caption_dropout=self.params.caption_dropout,
                )  # fmt: skip
                noise = torch.randn(x0.shape, generator=generator, device=self.device)
                t = draw_timesteps(
                    len(x0), self.own, self.T, self.p, draw=self.params.timestep_draw,
                    antithetic=self.params.antithetic, generator=generator,
                )  # fmt: skip
                xt = self.schedule.add_noise(x0, noise, t)
                with self.accelerator.autocast():
                    prediction = self.net(xt, t, **condition).sample
                    reference = None
                    if self.teacher is not None:
                        with torch.no_grad():
                            reference = self.teacher(xt, t, **condition).sample
                denoising = self._mean(denoising_loss(prediction, regression_target(self.schedule, x0, noise, t)), t)
                loss = denoising
                if reference is not None:
                    consistency = self._mean(consistency_loss(prediction, reference), t)
                    loss = loss + self.params.consistency * consistency
                    self.sums[2] += consistency.detach()
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.raw.parameters(), self.params.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.sums[0] += loss.detach()
            self.sums[1] += denoising.detach()
            # A flag on the device, read before each log line and each checkpoint: no synchronisation here.
            bad = ~torch.isfinite(loss.detach()) & (self.first_bad < 0)
            self.first_bad = torch.where(bad, step, self.first_bad)

    def _step_ema(self) -> None:
        if self.params.ema_offload:
            self.ema.to(self.device)
        self.ema.step(self.raw.parameters())
        if self.params.ema_offload:
            self.ema.to("cpu")

    def _mean(self, losses: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (losses if self.loss_weights is None else losses * self.loss_weights[t]).mean()

    def _generator(self, step: int, micro: int) -> torch.Generator:
        seed = step_seed(self.seed, self.label, step, micro, self.accelerator.process_index)
        torch.manual_seed(seed)  # dropout draws from the global generators
        return torch.Generator(self.device).manual_seed(seed)

    def _index(self, step: int, micro: int) -> torch.Tensor:
        """This process's examples of a micro-batch: walk through a fresh permutation of the data every epoch."""
        size, world = self.params.batch_size, self.accelerator.num_processes
        start = (
            ((step - 1) * self.params.gradient_accumulation + micro) * world + self.accelerator.process_index
        ) * size
        position = torch.arange(start, start + size)
        epoch = position // len(self.examples)
        index = torch.empty_like(position)
        for e in epoch.unique().tolist():
            index[epoch == e] = self._order(e)[position[epoch == e] % len(self.examples)]
        return index

    def _order(self, epoch: int) -> torch.Tensor:
        """The permutation of an epoch; the last one is kept, since a large set takes long to shuffle."""
        if self.shuffled[0] != epoch:
            generator = torch.Generator().manual_seed(step_seed(self.seed, "epoch", epoch))
            self.shuffled = epoch, torch.randperm(len(self.examples), generator=generator)
        return self.shuffled[1]

    def _log(self, step: int, bar: Any) -> None:
        self._refuse_bad_loss(step)
        micro_steps = self.params.log_every * self.params.gradient_accumulation
        loss, denoising, consistency = (self.sums / micro_steps).tolist()
        lr = self.optimizer.param_groups[0]["lr"]
        self.curve.append(dict(zip(ROW, (step, loss, denoising, consistency, lr), strict=True)))
        bar.set_postfix(loss=f"{loss:.4f}")
        if self.params.report_to:
            self.accelerator.log({k: v for k, v in self.curve[-1].items() if k != "step"}, step=step)
        self._reset_sums()

    def _reset_sums(self) -> None:
        self.sums = torch.zeros(3, device=self.device)

    def _refuse_bad_loss(self, step: int) -> None:
        first_bad = int(self.first_bad)
        if first_bad >= 0:
            self._refuse(f"the loss is not finite at step {first_bad}", step)

    def _refuse_bad_weights(self, step: int) -> None:
        # The loss of a step is that of the weights before it: a bad last update shows in the weights alone.
        if not bool(torch.stack([torch.isfinite(w).all() for w in self.raw.parameters()]).all()):
            self._refuse(f"the weights are not finite after step {step}", step)

    def _refuse(self, what: str, step: int) -> None:
        raise InputError(
            f"{self.label}: {what} (timesteps [{self.own[0]}, {self.own[1]}), seen at step {step}); lower the"
            " learning rate or use mixed_precision 'no'. The last good state is kept"
        )

    def _snapshot(self, step: int) -> None:
        self.ema.store(self.raw.parameters())
        self.ema.copy_to(self.raw.parameters())
        self.raw.eval()
        self.snapshot(step, self.raw)
        self.raw.train()
        self.ema.restore(self.raw.parameters())

    def _start_trackers(self) -> None:
        if self.params.report_to:
            from dataclasses import asdict

            self.accelerator.init_trackers("deme", {k: v for k, v in asdict(self.params).items() if v is not None})
