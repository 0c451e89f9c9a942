"""What a step costs on a real GPU; run with -m gpu."""

import pytest
import torch

from deme_core.preflight.steps import timed

IMAGE = 2**26  # bytes
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_the_memory_is_that_of_the_largest_batch_that_fits() -> None:
    stays = torch.zeros(IMAGE, dtype=torch.uint8, device="cuda")

    def step(n: int) -> None:
        taken = torch.zeros(n * IMAGE, dtype=torch.uint8, device="cuda")
        if n > 4:  # memory ends after some of it is taken, as it does amid a pass
            torch.zeros(2**50, dtype=torch.uint8, device="cuda")
        taken.fill_(1)  # in place: a sum would make 8 bytes of each

    found = timed(step, 16)
    assert found.batch == 4
    assert 4 * IMAGE <= found.peak < 5 * IMAGE
    assert torch.cuda.memory_allocated() >= stays.nbytes
