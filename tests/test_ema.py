"""The moving average of a training's weights, worked by hand."""

import copy
from pathlib import Path

import pytest
import torch
from trained import equal, run, state_tensors


@pytest.mark.parametrize("decay", [0.9999, 0.5])
def test_ema_is_that_worked_by_hand(pipeline: Path, digits: torch.Tensor, tmp_path: Path, decay: float) -> None:
    """decay_k = min(decay, 1 − k^(−3/4)) at optimizer step k, 0 at the first."""
    state_folder = tmp_path / "state"
    raw, ema = [], []

    def snapshot(_: int, model: torch.nn.Module) -> None:
        raw.append(state_tensors(state_folder, "model"))
        assert equal(state_tensors(state_folder, "ema"), dict(model.named_parameters()))
        ema.append(copy.deepcopy(dict(model.named_parameters())))

    _, final = run(pipeline, digits, state_folder, ema_decay=decay, log_every=1, checkpoint_every=1, snapshot=snapshot)
    assert len(raw) == 12
    for key in ema[0]:
        average = raw[0][key].double()
        for k, weights in enumerate(raw, 1):
            rate = min(decay, 1 - k**-0.75)
            average = rate * average + (1 - rate) * weights[key].double()
            torch.testing.assert_close(ema[k - 1][key].double(), average, rtol=1e-5, atol=1e-7)
        assert torch.equal(final[key], ema[-1][key])
    assert not equal(raw[-1], final)
