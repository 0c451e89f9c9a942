"""The training loop: one denoiser, one range of timesteps, exact resume (Eq. 5 and 6)."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import nn

from deme_core.data.examples import Examples
from deme_core.denoising import consistency_loss, denoising_loss, regression_target
from deme_core.device import best_device
from deme_core.errors import InputError
from deme_core.parallel import torch_threads
from deme_core.progress import progress
from deme_core.training.batches import Batch, Batches
from deme_core.training.job import Curve, Job, Snapshot
from deme_core.training.optimizer import make_optimizer
from deme_core.training.resume import load_state, save_state
from deme_core.training.stopping import Stopping
from deme_core.work import only_one

ROW = ("step", "loss", "denoising", "consistency", "lr", "processes")  # of a curve


def train(
    model: nn.Module,
    noise_schedule: Any,
    examples: Examples,
    job: Job,
    state_folder: Path,
    *,
    teacher: nn.Module | None = None,
    snapshot: Snapshot | None = None,
    snapshot_every: int = 0,
) -> Curve:
    """Train `model` in place; it ends with its EMA weights, in eval mode.

    On SIGTERM or SIGUSR2 the step is ended, the state saved, and the process ends as by that signal.

    Args:
        noise_schedule: of as many timesteps as the job's ranges cover.
        examples: what x_0 and its condition are drawn from.
        state_folder: of the resume state; a finished state there is exported again without training.
        teacher: the pretrained model θ of the consistency loss; stays as it is. Needed where that loss has a weight.
        snapshot: called every `snapshot_every` steps.

    Returns:
        One row every `log_every` steps: step, loss, denoising, consistency (means since the last row, weighted as
        trained), lr, and the number of processes that shared its batches.

    Raises:
        InputError: the loss became NaN or infinite (no state is saved from then on), the folder is locked, or the
            processes cannot share a batch out evenly.
    """
    device, params = best_device(), job.settings
    accelerator = Accelerator(
        mixed_precision=params.mixed_precision,
        gradient_accumulation_steps=params.gradient_accumulation,
        log_with=params.report_to,
        project_dir=str(state_folder) if params.report_to else None,
    )
    threads = params.cpu_threads if device.type == "cpu" else None
    with torch_threads(threads, pieces=threads), only_one(state_folder), Stopping() as stopping:
        training = _Training(accelerator, model, noise_schedule, examples, job, state_folder, teacher)
        return training.run(snapshot, snapshot_every, stopping)


class _Training:
    """The moving parts of one training, so that each step of the loop is one line."""

    def __init__(
        self, accelerator: Accelerator, model: Any, noise_schedule: Any, examples: Examples, job: Job,
        state_folder: Path, teacher: nn.Module | None,
    ) -> None:  # fmt: skip
        self.accelerator, self.schedule, self.job, self.state_folder = accelerator, noise_schedule, job, state_folder
        self.params = params = job.settings
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
            # Frozen, so that nothing is lost by the precision that autocast gives its activations anyway. Not by
            # diffusers' own `to`, which warns of every cast.
            teacher = nn.Module.to(teacher, self.device, params.dtype)
            self.teacher = teacher.eval().requires_grad_(False)
        assert noise_schedule.config.num_train_timesteps == job.ranges.T, "the ranges are those of the schedule"
        self.batches = Batches(examples, job, accelerator.process_index, accelerator.num_processes)
        self.loss_weights = None if job.loss_weights is None else job.loss_weights.float().to(self.device)
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
        self.net, self.optimizer = accelerator.prepare(self.raw, self.optimizer)
        self.curve: Curve = []
        self.first = 0
        self._reset_sums()
        # After `prepare`, which moves all that an optimizer holds to the GPU: AdamW's step counters belong to the CPU.
        if saved := load_state(state_folder, self.raw, self.ema, self.optimizer.optimizer):
            self.first = saved["step"]
            self.curve = [{key: row[key] for key in ROW} for row in saved["curve"]]  # JSON sorted its keys
            self.sums += torch.tensor(saved["sums"], device=self.device)
            if accelerator.scaler:
                accelerator.scaler.load_state_dict(saved["scaler"])
        if params.ema_offload and self.device.type == "cuda":
            self.ema.to("cpu")
            self.ema.pin_memory()
        self.first_bad = torch.full((), -1, device=self.device)

    def run(self, snapshot: Snapshot | None, snapshot_every: int, stopping: Stopping) -> Curve:
        self._start_trackers()
        steps = range(self.first + 1, self.params.iterations + 1)
        stream = self.batches.stream(self.first + 1, self.device)
        main = self.accelerator.is_main_process
        bar = progress(
            steps,
            desc=self.job.label,
            initial=self.first,
            total=self.params.iterations,
            disable=not main,
            unit="step",
        )
        for step in bar:
            self._step(step, stream)
            self._step_ema()
            if step % self.params.log_every == 0:
                self._log(step, bar)
            stop = self._told(step, stopping)
            if stop or step % self.params.checkpoint_every == 0 or step == self.params.iterations:
                self._refuse_bad_loss(step)
                self._refuse_bad_weights(step)
                self._settle_ema()
                if main:
                    save_state(self.state_folder, self.raw, self.ema, self.optimizer.optimizer, self._progress(step))
            if snapshot and main and step % snapshot_every == 0:
                self._snapshot(step, snapshot)
            if stop:
                self._end(step, stopping)
        self._settle_ema()
        self.ema.copy_to(self.raw.parameters())
        self.raw.eval()
        for tracker in self.accelerator.trackers:  # `end_training` would also end the group of processes
            tracker.finish()
        return self.curve

    def _progress(self, step: int) -> dict[str, Any]:
        scaler = self.accelerator.scaler  # the loss scale of fp16
        more = {"sums": self.sums.tolist(), "scaler": scaler.state_dict() if scaler else None}
        return {"step": step, "curve": self.curve} | more

    def _told(self, step: int, stopping: Stopping) -> bool:
        """Whether the training is to end here. Several processes agree at a row of the curve, where they wait for each
        other anyway, and where none has sums of its own."""
        if self.accelerator.num_processes == 1:
            return bool(stopping.came)
        if step % self.params.log_every:
            return False
        told = torch.tensor([len(stopping.came)], device=self.device)
        return bool((self.accelerator.gather(told) > 0).any())

    def _end(self, step: int, stopping: Stopping) -> None:
        self.accelerator.wait_for_everyone()  # the others would have the main one ended while it saves
        if self.accelerator.is_main_process:
            print(f"{self.job.label}: told to end, saved at step {step:,}", file=sys.stderr)
        stopping.end()

    def _step(self, step: int, stream: Iterator[Batch]) -> None:
        """One optimizer step over `gradient_accumulation` micro-batches."""
        lr = self.params.rate * self.lr_factor(step - 1)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        for micro in range(self.params.gradient_accumulation):
            with self.accelerator.accumulate(self.net):
                self.batches.seed_dropout(step, micro)
                batch = next(stream)
                x0, noise, t = batch.x0, batch.noise, batch.t
                xt = self.schedule.add_noise(x0, noise, t)
                with self.accelerator.autocast():
                    prediction = self.net(xt, t, **batch.condition).sample
                    reference = None
                    if self.teacher is not None:
                        with torch.no_grad():
                            reference = self.teacher(xt, t, **batch.condition).sample
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
        """To the GPU and back where it is offloaded: from and to pinned memory, behind the kernels of the step."""
        if self.params.ema_offload:
            self.ema.to(self.device, non_blocking=True)
        self.ema.step(self.raw.parameters())
        if self.params.ema_offload:
            self.ema.to("cpu", non_blocking=True)

    def _settle_ema(self) -> None:
        """Wait until an offloaded EMA has arrived, before anyone reads it."""
        if self.params.ema_offload and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _mean(self, losses: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (losses if self.loss_weights is None else losses * self.loss_weights[t]).mean()

    def _log(self, step: int, bar: Any) -> None:
        self._refuse_bad_loss(step)
        micro_steps = self.params.log_every * self.params.gradient_accumulation
        loss, denoising, consistency = (self.accelerator.reduce(self.sums, "mean") / micro_steps).tolist()
        row = step, loss, denoising, consistency, self.optimizer.param_groups[0]["lr"], self.accelerator.num_processes
        self.curve.append(dict(zip(ROW, row, strict=True)))
        bar.set_postfix(loss=f"{loss:.4f}")
        if self.params.report_to:
            self.accelerator.log({k: v for k, v in self.curve[-1].items() if k != "step"}, step=step)
        self._reset_sums()

    def _reset_sums(self) -> None:
        self.sums = torch.zeros(3, device=self.device)

    def _refuse_bad_loss(self, step: int) -> None:
        found = self.accelerator.gather(self.first_bad[None])  # of one process' rows, and of interest to all
        if bool((found >= 0).any()):
            self._refuse(f"the loss is not finite at step {int(found[found >= 0].min())}", step)

    def _refuse_bad_weights(self, step: int) -> None:
        # The loss of a step is that of the weights before it: a bad last update shows in the weights alone.
        if not bool(torch.stack([torch.isfinite(w).all() for w in self.raw.parameters()]).all()):
            self._refuse(f"the weights are not finite after step {step}", step)

    def _refuse(self, what: str, step: int) -> None:
        low, high = self.job.trained_range
        raise InputError(
            f"{self.job.label}: {what} (timesteps [{low}, {high}), seen at step {step}); lower the"
            " learning rate or use mixed_precision 'no'. The last good state is kept"
        )

    def _snapshot(self, step: int, snapshot: Snapshot) -> None:
        self._settle_ema()
        self.ema.store(self.raw.parameters())
        self.ema.copy_to(self.raw.parameters())
        self.raw.eval()
        snapshot(step, self.raw)
        self.raw.train()
        self.ema.restore(self.raw.parameters())

    def _start_trackers(self) -> None:
        if self.params.report_to:
            from dataclasses import asdict

            self.accelerator.init_trackers("deme", {k: v for k, v in asdict(self.params).items() if v is not None})
