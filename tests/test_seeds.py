"""Seeds: no image of one block shares its seed with another, and a step's draws depend on its name alone."""

import itertools

import pytest
import torch

from deme_core.errors import InputError
from deme_core.seeds import INDEX_BITS, SeedBlock, image_generators, image_seed, step_seed

LAST = 2**INDEX_BITS - 1


def test_seed_blocks_are_disjoint_and_fit_the_32_bits_that_torch_reads() -> None:
    spans = [(image_seed(block, 0), image_seed(block, LAST)) for block in SeedBlock]
    for low, high in spans:
        assert high - low == LAST
        assert 0 <= low <= high < 2**32
    for (_, high), (low, _) in itertools.pairwise(sorted(spans)):
        assert high < low


def test_seeds_rise_by_one_within_a_block() -> None:
    seeds = [image_seed(SeedBlock.EVALUATION, k) for k in range(1000)]
    assert seeds == list(range(seeds[0], seeds[0] + 1000))


@pytest.mark.parametrize("index", [-1, LAST + 1])
def test_an_index_outside_the_block_is_refused(index: int) -> None:
    with pytest.raises(InputError, match=f"image index {index} is outside"):
        image_seed(SeedBlock.SEARCH, index)


def test_noise_of_an_image_depends_on_its_block_and_index_alone() -> None:
    def noise(block: SeedBlock, indices: range) -> list[torch.Tensor]:
        return [torch.randn(16, generator=generator) for generator in image_generators(block, indices)]

    whole = noise(SeedBlock.SEARCH, range(8))
    assert torch.equal(noise(SeedBlock.SEARCH, range(5, 6))[0], whole[5])
    images = [*whole, *noise(SeedBlock.CONFIRM, range(8)), *noise(SeedBlock.EVALUATION, range(8))]
    assert len({tuple(image.tolist()) for image in images}) == 24


def test_step_seed_is_stable() -> None:
    """The draws of every resumed training hang on this number."""
    assert step_seed(0, "range 1 of 4, t in [0, 250)", 1, 0, 0) == 2805955213581057767


def test_step_seeds_are_distinct_63_bit_numbers() -> None:
    names = [*itertools.product(range(3), ["range 1", "range 2"], range(50), range(2), range(2)), (1, 12), (11, 2)]
    seeds = {step_seed(*name) for name in names}
    assert len(seeds) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**60
