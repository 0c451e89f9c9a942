"""Products of noisy gradients: no bias, intervals that cover, and 0 where the gradient is 0."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from analysed import Affine, affine_gradient, affine_optimum, analyse_params, moments
from diffusers import DDPMScheduler
from safetensors.torch import save_file
from torch import nn

from deme_core.analysis import group_gradients
from deme_core.analysis.critical_point import combinations, combined
from deme_core.analysis.gradients import NEXT, OTHER, SAME, bins, kinds_of_pairs
from deme_core.analysis.group_gradients import gradient_products
from deme_core.analysis.products import cosines, estimate, products
from deme_core.data.examples import Pixels
from deme_core.data.images import to_model
from deme_core.errors import InputError
from deme_core.merging.task_vectors import TaskVectors
from deme_core.tensor_files import Tensors, piece_bounds
from deme_core.timesteps import TimestepRanges

SCHEDULE = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
RANGES = TimestepRanges.equal(4, 1000)
SPANS = list(pairwise(RANGES.bounds))
CPU = torch.device("cpu")


def norms(inner: np.ndarray) -> np.ndarray:
    return np.diagonal(inner).copy()


def made(rng: np.random.Generator, means: np.ndarray, K: int) -> np.ndarray:
    """Products of K noisy measurements of each of `means` [R, D], of noise that is much larger than they are."""
    noisy = means[:, None] + 3 * rng.standard_normal((len(means), K, means.shape[1]))
    return np.einsum("akd,bld->akbl", noisy, noisy)


def test_products_of_different_groups_by_hand() -> None:
    a, b = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 4.0], [1.0, 1.0]])  # two groups each
    gram = np.einsum("akd,bld->akbl", [a, b], [a, b])
    assert products(gram, [0, 1]).tolist() == [[0.0, (1 * 1 + 2 * 4) / 2], [(1 * 1 + 2 * 4) / 2, 7.0]]


def test_squared_norms_are_without_bias_and_their_intervals_cover(rng: np.random.Generator) -> None:
    means = np.zeros((2, 12))
    means[1, 0] = 2.0
    found = [estimate(made(rng, means, 8), norms) for _ in range(400)]
    for r, truth in ((0, 0.0), (1, 4.0)):
        values = np.array([f.value[r] for f in found])
        assert abs(values.mean() - truth) < 4 * values.std() / 20
        assert np.mean([f.low[r] <= truth <= f.high[r] for f in found]) > 0.93, truth
    assert np.mean([f.told[0] for f in found]) < 0.05  # a gradient of 0 is not told from 0
    naive = np.mean([np.einsum("akak->a", made(rng, means, 8))[0] / 8 for _ in range(20)])
    assert naive > 50  # what a norm without care would read


def test_a_cosine_is_not_pulled_to_0(rng: np.random.Generator) -> None:
    means = np.array([[6.0, 0.0, 0.0, 0.0], [6.0, 6.0, 0.0, 0.0]])
    found = [estimate(made(rng, means, 16), cosines) for _ in range(200)]
    values = np.array([f.value[0, 1] for f in found])
    assert abs(values.mean() - 0.5**0.5) < 0.03
    assert np.mean([f.low[0, 1] <= 0.5**0.5 <= f.high[0, 1] for f in found]) > 0.9


def test_what_the_sample_does_not_say_is_no_number() -> None:
    gram = np.zeros((2, 4, 2, 4))
    found = estimate(gram, cosines)
    assert np.isnan(found.value).all()
    assert not found.told.any()


@pytest.fixture(scope="module")
def examples(digits: torch.Tensor) -> Pixels:
    return Pixels(digits)


def affine_grams(examples: Pixels, a: float, b: float, draws: int = 600) -> group_gradients.Grams:
    params = analyse_params(groups=8, batch_size=300)
    return gradient_products(Affine(a, b), SCHEDULE, examples, SPANS, draws, params, CPU)


def test_the_gradients_of_an_affine_denoiser_are_those_of_the_closed_form(examples: Pixels) -> None:
    a, b = 0.4, 0.1
    x0 = to_model(examples.pixels)
    truth = np.stack([affine_gradient(a, b, moments(x0, SCHEDULE, span)) for span in SPANS])
    found = affine_grams(examples, a, b)
    assert (found.compared, found.weights) == (2, 2)
    inner = estimate(found.whole, lambda inner: inner)
    assert (inner.low <= truth @ truth.T).all()
    assert (truth @ truth.T <= inner.high).all()
    angles = estimate(found.whole, cosines)
    length = np.linalg.norm(truth, axis=1)
    np.testing.assert_allclose(angles.value, truth @ truth.T / np.outer(length, length), atol=0.05)
    assert angles.value[0, 3] < -0.5  # the ranges pull a and b in opposite ways


def test_at_the_optimum_the_gradient_over_all_t_is_not_told_from_0_and_those_of_ranges_are(examples: Pixels) -> None:
    a, b = affine_optimum(moments(to_model(examples.pixels), SCHEDULE, (0, 1000)))
    sums = combinations(RANGES, [1.0, 0.0, 0.0, 0.0], ())
    found = estimate(combined(affine_grams(examples, a, b).blocks, sums), norms)
    assert found.told.tolist() == [False, True, True, True, True, True]
    assert found.value[0] < 0.01 * found.value[1:5].mean()
    assert found.value[5] == pytest.approx(found.value[1])  # Σ wᵢ∇Lᵢ with w = (1, 0, 0, 0)


def test_weights_of_blocks_combine_block_by_block() -> None:
    ranges = TimestepRanges((0, 250, 1000))
    sums = combinations(ranges, [1.0, 2.0, 3.0, 4.0], ["mid_block", "rest"])
    assert sums["mid_block"].tolist() == [[0.25, 0.75], [1.0, 0.0], [0.0, 1.0], [1.0, 2.0]]
    grams = {"mid_block": np.zeros((2, 3, 2, 3)), "rest": np.zeros((2, 3, 2, 3))}
    grams["mid_block"][0, :, 0, :], grams["rest"][1, :, 1, :] = 1.0, 1.0  # ∇L_1 is 1 here, ∇L_2 there
    inner = products(combined(grams, sums), [0, 1, 2])
    assert np.diagonal(inner).tolist() == [0.25**2 + 0.75**2, 1.0, 1.0, 1.0 + 16.0]


def test_of_a_larger_network_some_weights_stand_for_all() -> None:
    named = {"a": torch.nn.Parameter(torch.ones(1000)), "b": torch.nn.Parameter(torch.ones(3))}
    picked, scales = group_gradients._picked(named, 100, CPU)
    assert {key: len(places) for key, places in picked.items()} == {"a": 100, "b": 1}
    assert len(picked["a"].unique()) == 100
    for key, value in named.items():
        assert float((value.detach()[picked[key]] * scales[key]).square().sum()) == pytest.approx(value.numel())
    picked, scales = group_gradients._picked(named, 1003, CPU)
    assert (len(picked["a"]), scales["a"]) == (1000, 1.0)


def test_a_gradient_that_is_not_finite_is_refused(examples: Pixels) -> None:
    with pytest.raises(InputError, match="the gradient of 'a' is not finite"):
        affine_grams(examples, float("nan"), 0.0, draws=2)


def test_bins_are_parts_of_ranges() -> None:
    ranges = TimestepRanges((0, 100, 1000))
    assert bins(ranges, 2) == [(0, 50), (50, 100), (100, 550), (550, 1000)]
    assert bins(TimestepRanges((0, 1, 4)), 2) == [(0, 1), (1, 2), (2, 4)]  # a range of one timestep has one
    kinds = kinds_of_pairs(bins(ranges, 2), ranges)
    assert [list(zip(*np.nonzero(kinds[kind]), strict=True)) for kind in (NEXT, SAME, OTHER)] == [
        [(0, 1), (1, 2), (2, 3)], [(0, 1), (2, 3)], [(0, 2), (0, 3), (1, 2), (1, 3)],
    ]  # fmt: skip


@contextmanager
def task_vectors(folder: Path, *vectors: dict[str, torch.Tensor]) -> Iterator[TaskVectors]:
    with ExitStack() as stack:
        opened = []
        for number, vector in enumerate(
            [{key: torch.zeros_like(value) for key, value in vectors[0].items()}, *vectors]
        ):
            save_file(vector, folder / f"{number}.safetensors")
            opened.append(stack.enter_context(Tensors(folder / f"{number}.safetensors")))
        yield TaskVectors(opened[0], opened[1:])


def test_vectors_that_are_read_in_pieces_give_the_products_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    sizes = {"a": (5,), "b": (2, 3), "unused": (4,)}
    named = {key: nn.Parameter(torch.zeros(size)) for key, size in sizes.items()}
    vectors = [{key: torch.randn(size, generator=draw) for key, size in sizes.items()} for _ in range(2)]
    gradients = {key: torch.randn(sizes[key], generator=draw) for key in "ab"}
    monkeypatch.setattr(group_gradients, "piece_bounds", partial(piece_bounds, size=2))
    with task_vectors(tmp_path, *vectors) as found:
        slopes = group_gradients._slopes(gradients | {"unused": None}, found)
        spanned = group_gradients._spanned(slopes[None], named, found)
    along = np.array([sum(float((gradients[key] * vector[key]).sum()) for key in "ab") for vector in vectors])
    np.testing.assert_allclose(slopes, along, rtol=1e-5)
    wide = np.stack([torch.cat([value.flatten() for value in vector.values()]).double() for vector in vectors])
    np.testing.assert_allclose(spanned, [[along @ np.linalg.inv(wide @ wide.T) @ along]], rtol=1e-5)


def test_projected_gradients_are_those_of_the_closed_form_within_the_span(examples: Pixels, tmp_path: Path) -> None:
    a, b = 0.4, 0.1
    x0 = to_model(examples.pixels)
    truth = np.stack([affine_gradient(a, b, moments(x0, SCHEDULE, span)) for span in SPANS])
    params = analyse_params(groups=8, batch_size=300)

    def spanned(*vectors: tuple[float, float]) -> np.ndarray:
        of = [{key: torch.tensor(vector[k]) for k, key in enumerate("ab")} for vector in vectors]
        with task_vectors(tmp_path, *of) as found:
            return gradient_products(Affine(a, b), SCHEDULE, examples, SPANS, 600, params, CPU, found).spanned

    along = truth @ np.array([3.0, 4.0]) / 5
    found = estimate(spanned((3.0, 4.0)), lambda inner: inner)
    assert (found.low <= np.outer(along, along)).all()
    assert (np.outer(along, along) <= found.high).all()
    whole = affine_grams(examples, a, b)
    np.testing.assert_allclose(spanned((3.0, 4.0), (-1.0, 2.0)), whole.whole, rtol=1e-4, atol=1e-7)  # they span all
    np.testing.assert_allclose(spanned((3.0, 4.0), (6.0, 8.0)), spanned((3.0, 4.0)), rtol=1e-4, atol=1e-7)  # parallel
    assert not whole.spanned.any()
