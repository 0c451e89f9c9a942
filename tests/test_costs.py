"""What a run costs: counts that follow from params, and time and memory that follow from the model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import sampler_params, training_params
from dag_runs import ASKED
from hub_files import offline_hub
from text_to_image import write_stable_diffusion

from deme_core.amounts import amount
from deme_core.dag import BASELINES, dag
from deme_core.errors import InputError
from deme_core.preflight.check import fits
from deme_core.preflight.costs import measure
from deme_core.preflight.counts import Counts
from deme_core.preflight.steps import timed
from deme_core.sampling.settings import OwnParams, SampleParams
from deme_core.search.settings import SearchParams

OWN = OwnParams(images=50, ranges=1)
SEARCH = SearchParams(
    method="grid", objective="frechet", budget=90, images=10, bounds=(0.0, 1.0), fixed=None, values=(0.0, 1.0),
    scales=(0.5,), away=(), per_block=False, towards_shared=0.001,
    seed=0, finalists=2, final_images=40, final_blocks=2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    return offline_hub(monkeypatch)


def test_the_counts_are_those_of_the_stages() -> None:
    training = training_params(iterations=12, batch_size=8, gradient_accumulation=2)
    plain = Counts.of(2, dag(2, []), training, SEARCH, sampler_params(steps=3), SampleParams(images=100), OWN)
    assert plain.trained == 2 * 12 * 8 * 2
    assert plain.sampled == 5 * 100  # pretrained, ensemble, merged with uniform and with searched weights, the null
    assert plain.searched == 2 * (90 + 4 * 40)  # the budget; two finalists and two anchors; the null's the same
    assert plain.calls == 3
    baselines = dag(2, ["full_range", "soup_greedy"])
    more = Counts.of(2, baselines, training, SEARCH, sampler_params(steps=3), SampleParams(images=100), OWN)
    prompted = Counts.of(2, dag(2, []), training, SEARCH, sampler_params(steps=3), SampleParams(images=100), OWN, 50)
    assert prompted.sampled == 5 * 150
    assert more.trained == 2 * plain.trained
    assert more.sampled == 8 * 100
    assert more.searched > 1.5 * plain.searched
    away = Counts.of(
        2, dag(2, [], directions=ASKED), training, SEARCH, sampler_params(steps=3), SampleParams(images=100), OWN
    )
    assert away.trained == plain.trained * 3 // 2  # as many steps as one expert
    assert away.sampled == 7 * 100 + 50 + 5


@pytest.mark.parametrize(("rate", "probes"), [(1e-3, 0), ("auto", 7)])
def test_every_training_and_probe_that_leaves_files_is_counted(rate: float | str, probes: int) -> None:
    training, sampler = training_params(learning_rate=rate), sampler_params()
    own = replace(OWN, ranges=2)
    plain, baselines, away = (
        Counts.of(3, names, training, SEARCH, sampler, SampleParams(images=100), own)
        for names in (dag(3, []), dag(3, BASELINES), dag(3, [], directions=ASKED))
    )
    # Six baselines are trained: five finetunes, and a soup of as many as there are experts.
    assert [counts.finetunes for counts in (plain, baselines, away)] == [3, 3 + 5 + 3, 3 + 2]
    assert all(counts.probes == probes * counts.finetunes for counts in (plain, baselines, away))
    alone = Counts.of_own(training, sampler, own)
    assert (alone.finetunes, alone.probes) == (2, 2 * probes)


def test_a_run_without_data_costs_its_own_samples() -> None:
    training = training_params(iterations=12, batch_size=8, gradient_accumulation=2)
    counts = Counts.of_own(training, sampler_params(steps=3), OwnParams(images=50, ranges=2))
    assert (counts.trained, counts.searched, counts.sampled, counts.calls) == (2 * 12 * 8 * 2, 0, 55, 3)


def test_a_measured_step_gives_time_flops_and_disk(pipeline: Path) -> None:
    measured = measure(pipeline, training_params(batch_size=4), sampler_params(block=4))
    assert (measured.pixels, measured.encoded, measured.encoding, measured.decoding) == (64, 0, 0, 0)
    assert measured.model_states == 4 * measured.parameters * 6
    assert measured.memory == measured.model_states + max(measured.activations, 4 * measured.parameters)
    assert measured.macs > 0
    assert measured.sampling > 0 and measured.training > 0
    counts = Counts(trained=1000, searched=500, sampled=100, calls=10, finetunes=2, probes=14)
    hours = measured.hours(counts)
    assert hours["training"] == pytest.approx(1000 * measured.training / 3600)
    assert hours["sampling"] == pytest.approx(1000 * measured.sampling / 3600)
    assert measured.disk(counts, 6, 4, 100) == 4 * measured.parameters * (2 * 6 + 14 * 5 + 6 + 4) + 4 * 100 * 64


class FakeGPU:
    """Stands for a GPU's memory, which is no use without one: `step` takes 100 bytes an image beside 1000 that stay."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, holds: int) -> None:
        self.holds, self.peak, self.asked = holds, 0, []
        for name, answer in {
            "is_available": lambda: True, "synchronize": lambda: None, "memory_allocated": lambda: 1000,
            "max_memory_allocated": lambda: self.peak, "reset_peak_memory_stats": lambda: setattr(self, "peak", 1000),
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, answer)

    def step(self, n: int) -> None:
        self.asked.append(n)
        self.peak = max(self.peak, 1000 + 100 * min(n, self.holds))
        if n > self.holds:
            raise torch.OutOfMemoryError


@pytest.mark.parametrize(
    ("holds", "most", "batch", "asked"),
    [(100, 4, 4, [1, 1, 2, 4]), (5, 16, 4, [1, 1, 2, 4, 8]), (4, 6, 4, [1, 1, 2, 4, 6]), (1, 3, 1, [1, 1, 2])],
)
def test_time_and_memory_are_those_of_the_largest_batch_that_fits(
    holds: int, most: int, batch: int, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGPU(monkeypatch, holds)
    found = timed(gpu.step, most)
    assert (found.batch, found.peak, gpu.asked) == (batch, 100 * batch, asked)


def test_a_gpu_that_does_not_hold_one_image_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="one image is more than this GPU holds"):
        timed(FakeGPU(monkeypatch, 0).step, 4)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (5.67e9, "5.67 GB"), (999.7e6, "1 GB"), (2.5e15, "2.5 PB")],
)
def test_amounts_have_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert amount(value, "B") == text


def test_a_text_to_image_model_is_measured_with_its_captions(tmp_path: Path) -> None:
    write_stable_diffusion(tmp_path / "sd")
    params = training_params(batch_size=2, gradient_checkpointing=True, ema_offload=True)
    measured = measure(tmp_path / "sd", params, sampler_params(block=2, kind="pndm", guidance=7.5))
    assert measured.pixels == 16 * 16
    assert measured.encoded == 2 * (2 * 4 * 8 * 8 + 12 * 8)
    assert measured.model_states == 4 * measured.parameters * 5
    assert min(measured.macs, measured.encoding, measured.decoding) > 0
    eight = measure(tmp_path / "sd", replace(params, optimizer="adamw_8bit"), sampler_params(block=2))
    assert eight.model_states == measured.parameters * (4 * 3 + 2)


def test_the_memory_of_a_training_grows_with_its_batch_and_says_what_it_fits(tmp_path: Path) -> None:
    write_stable_diffusion(tmp_path / "sd")
    kept = {
        (batch, saving): measure(
            tmp_path / "sd", training_params(batch_size=batch, gradient_checkpointing=saving), sampler_params(block=1)
        ).activations
        for batch in (1, 4)
        for saving in (False, True)
    }
    assert kept[4, False] == pytest.approx(4 * kept[1, False], rel=0.1)
    assert kept[4, False] / 8 < kept[4, True] < kept[4, False]  # one block of seven is kept whole
    assert fits(int(20e9)) == "fits a GPU of 24 or 80 GB"
    assert fits(int(23e9)) == "fits a GPU of 80 GB"
    assert "gradient_checkpointing, ema_offload" in fits(int(79e9))
