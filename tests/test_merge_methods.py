"""The merge methods on numbers that can be worked out by hand, and the params that choose them."""

import pytest
import torch
from torch import Tensor

from deme_core.errors import InputError
from deme_core.merging.methods import METHODS, MergeParams, block_of, check_blocks, trim
from deme_core.params import section
from deme_core.seeds import step_seed

NOWHERE = {"method": "task_arithmetic", "density": 1.0, "seed": 0, "blocks": {}, "dtype": None}
OWN = {"per_block": {"mid_block": [0.5, 0.5]}}


def merge(
    method: str, taus: list[list[float]], weights: list[float], key: str = "conv_in.weight", **options: object
) -> Tensor:
    """The merge into θ = 0."""
    params = MergeParams(method=method, **options)
    columns = [torch.tensor(tau) for tau in taus]
    return METHODS[method].merge(torch.zeros_like(columns[0]), iter(columns), weights, params, key)


def random_case(n: int = 1000) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    theta, *taus = (torch.randn(n, generator=generator) for _ in range(3))
    return theta, taus


def params_of(method: str) -> MergeParams:
    return MergeParams(
        method=method, density=0.3 if "density" in METHODS[method].params else 1, blocks=OWN.get(method, {})
    )


# Every method


@pytest.mark.parametrize("method", METHODS)
def test_a_method_changes_no_input_and_reads_every_vector(method: str) -> None:
    theta, taus = random_case()
    kept = [value.clone() for value in (theta, *taus)]
    read = iter(taus)
    METHODS[method].merge(theta, read, [0.0, 0.5], params_of(method), "mid_block.x")
    assert all(torch.equal(a, b) for a, b in zip((theta, *taus), kept, strict=True))
    assert next(read, None) is None


@pytest.mark.parametrize("method", METHODS)
def test_weights_0_give_theta_bit_for_bit(method: str) -> None:
    theta, taus = random_case()
    theta[0] = -0.0
    merged = METHODS[method].merge(theta, iter(taus), [0.0, 0.0], params_of(method), "conv_in.weight")
    assert merged.numpy().tobytes() == theta.numpy().tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_density_1_and_one_hot_weights_give_the_expert(method: str) -> None:
    theta, taus = random_case()
    params = MergeParams(method=method, blocks=OWN.get(method, {}))
    merged = METHODS[method].merge(theta, iter(taus), [0.0, 1.0], params, "conv_in.weight")
    torch.testing.assert_close(merged, theta + taus[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["task_arithmetic", "uniform_soup", "per_block", "dare"])
def test_these_methods_are_linear_in_w(method: str) -> None:
    theta, taus = random_case()
    params = params_of(method)

    def move(*w: float) -> Tensor:
        return METHODS[method].merge(theta, iter(taus), w, params, "conv_in.weight") - theta

    torch.testing.assert_close(move(0.5, -2.0), 0.5 * move(1.0, 0.0) - 2.0 * move(0.0, 1.0), rtol=0, atol=1e-5)


def test_ties_is_not_linear_in_w() -> None:
    both = merge("ties", [[1.0], [-2.0]], [1.0, 1.0])
    assert both != merge("ties", [[1.0], [-2.0]], [1.0, 0.0]) + merge("ties", [[1.0], [-2.0]], [0.0, 1.0])


# TIES (Yadav et al. 2023)

TAUS = [[4.0, -1.0, 2.0, 0.5], [-3.0, 2.0, 1.0, 5.0]]


def test_trim_keeps_the_largest_magnitudes() -> None:
    kept = [trim(torch.tensor(tau), 0.5).tolist() for tau in TAUS]
    assert kept == [[4.0, 0.0, 2.0, 0.0], [-3.0, 0.0, 0.0, 5.0]]
    assert trim(torch.tensor(TAUS[0]), 0.75).tolist() == [4.0, -1.0, 2.0, 0.0]
    assert trim(torch.tensor([0.5, -2.0]), 0.01).tolist() == [0.0, -2.0]  # at least one
    assert trim(torch.tensor([]), 0.5).tolist() == []


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        # Trimmed: [4, 0, 2, 0] and [-3, 0, 0, 5]. Sums at element 0: 2 - 1.5 > 0, so + and 4 alone is averaged.
        ([0.5, 0.5], [4.0, 0.0, 2.0, 5.0]),
        # λ = 4, and element 0 is elected by 1·4 - 3·3 < 0: -3 alone.
        ([1.0, 3.0], [-12.0, 0.0, 8.0, 20.0]),
        ([0.0, 1.0], [-3.0, 0.0, 0.0, 5.0]),
        ([-1.0, 0.0], [-4.0, 0.0, -2.0, 0.0]),
    ],
)
def test_ties_trims_elects_and_averages(weights: list[float], expected: list[float]) -> None:
    assert merge("ties", TAUS, weights, density=0.5).tolist() == expected


def test_ties_averages_those_that_agree_by_their_weights() -> None:
    merged = merge("ties", [[2.0], [4.0], [-1.0]], [0.25, 0.5, 0.25])
    assert merged.item() == pytest.approx((0.25 * 2 + 0.5 * 4) / 0.75)  # λ = 1; the last disagrees


def test_a_tie_of_signs_goes_to_plus() -> None:
    assert merge("ties", [[2.0], [-2.0]], [0.5, 0.5]).item() == 2.0


# DARE (Yu et al. 2024)


def test_dare_drops_by_a_mask_of_its_own_and_rescales() -> None:
    theta, taus = random_case(20)
    expected = theta.clone()
    for i, (w, tau) in enumerate(zip([0.5, 2.0], taus, strict=True)):
        generator = torch.Generator().manual_seed(step_seed("dare", 7, "a", i))
        kept = torch.rand(20, generator=generator) < 0.4
        assert 0 < kept.sum() < 20
        expected += w * torch.where(kept, tau / 0.4, 0)
    params = MergeParams(method="dare", density=0.4, seed=7)
    torch.testing.assert_close(METHODS["dare"].merge(theta, iter(taus), [0.5, 2.0], params, "a"), expected)


def test_dare_keeps_the_mean_and_the_share() -> None:
    merged = merge("dare", [[1.0] * 100_000], [1.0], density=0.25)
    assert set(merged.tolist()) == {0.0, 4.0}
    assert (merged > 0).float().mean() == pytest.approx(0.25, abs=0.01)


def test_dare_drops_by_seed_key_and_vector() -> None:
    ones = [[1.0] * 1000]
    one = merge("dare", ones, [1.0], density=0.5)
    assert torch.equal(one, merge("dare", ones, [1.0], density=0.5))
    assert not torch.equal(one, merge("dare", ones, [1.0], density=0.5, seed=1))
    assert not torch.equal(one, merge("dare", ones, [1.0], density=0.5, key="other"))
    assert not torch.equal(one, merge("dare", 2 * ones, [0.0, 1.0], density=0.5))


# Weights of blocks


@pytest.mark.parametrize(
    ("key", "block"),
    [
        ("down_blocks.0.resnets.1.conv1.weight", "down_blocks.0"),
        ("down_blocks.10.resnets.1.conv1.weight", "down_blocks.10"),
        ("mid_block.attentions.0.to_q.weight", "mid_block"),
        ("up_blocks.1.upsamplers.0.conv.bias", "up_blocks.1"),
        ("conv_in.weight", "rest"),
        ("time_embedding.linear_1.weight", "rest"),
    ],
)
def test_the_block_of_a_tensor(key: str, block: str) -> None:
    assert block_of(key) == block


def test_a_block_with_weights_of_its_own_takes_them_and_the_others_take_w() -> None:
    blocks = {"mid_block": [0.0, 3.0], "rest": [1.0, 1.0]}
    merged = [merge("per_block", [[1.0], [10.0]], [2.0, 0.5], key, blocks=blocks).item()
              for key in ("mid_block.x", "conv_in.weight", "up_blocks.0.x")]  # fmt: skip
    assert merged == [30.0, 11.0, 7.0]


# Params


def test_the_section_is_parsed() -> None:
    given = NOWHERE | {"method": "per_block", "blocks": {"mid_block": [0, 1.5]}, "dtype": "float16"}
    params = section({"merge": given}, "merge", MergeParams)
    assert (params.method, params.blocks, params.dtype) == ("per_block", {"mid_block": [0, 1.5]}, "float16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "slerp"}, "merge.method = 'slerp': must be one of task_arithmetic, uniform_soup, ties"),
        ({"density": 0.0}, r"merge.density = 0\.0: the share that is kept must lie in \(0, 1\]"),
        ({"density": 1.5}, r"merge.density = 1\.5"),
        ({"seed": -1}, "merge.seed = -1: must not be negative"),
        ({"dtype": "int8"}, "merge.dtype = 'int8': must be one of float64, float32, float16, bfloat16"),
        ({"method": "per_block"}, "the method per_block needs weights of at least one block"),
        ({"blocks": {"mid_block": [1.0]}}, "the others take none"),
        (
            {"method": "per_block", "blocks": {"mid": [1.0]}},
            "merge.blocks = 'mid': a block is down_blocks.0, mid_block",
        ),
        ({"method": "per_block", "blocks": {"rest": [float("nan")]}}, "must be a list of N finite numbers"),
        ({"method": "per_block", "blocks": {"rest": 1.0}}, "must be a list of N finite numbers"),
    ],
)
def test_params_that_cannot_be_are_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        section({"merge": NOWHERE | change}, "merge", MergeParams)


def test_a_block_needs_one_weight_a_vector() -> None:
    params = MergeParams(method="per_block", blocks={"rest": [1.0, 2.0]})
    check_blocks(params, 2)
    with pytest.raises(InputError, match=r"merge.blocks.rest = \[1.0, 2.0\]: must be N = 3 numbers"):
        check_blocks(params, 3)


def test_weights_of_blocks_that_a_search_finds_are_merged_by_eq_8_alone() -> None:
    check_blocks(MergeParams(), 2, searched=True)
    with pytest.raises(InputError, match=r"merge\.method = 'ties': must be task_arithmetic where"):
        check_blocks(MergeParams(method="ties"), 2, searched=True)


def test_every_row_names_its_source_and_params_that_exist() -> None:
    for row in METHODS.values():
        assert row.source
        assert set(row.params) <= set(MergeParams.__dataclass_fields__)
