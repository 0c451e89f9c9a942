"""Where projections stand: the sites of each kind of block, and the models that are refused."""

import pytest
import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import Upsample2D
from projected import build, each_placement, matrix, randomize, run, shapes
from torch import nn

from deme_core.errors import InputError
from deme_core.projection import PLACEMENTS, fold_projections, insert_projections


def test_foldable_sites() -> None:
    assert insert_projections(build("cifar10"), "foldable") == [
        "down_blocks.0.downsamplers.0.conv.projection",
        "down_blocks.1.downsamplers.0.conv.projection",
        "down_blocks.2.downsamplers.0.conv.projection",
        "down_blocks.3.resnets.1.conv2.projection",
        "mid_block.resnets.1.conv2.projection",
        "up_blocks.0.upsamplers.0.conv.projection",
        "up_blocks.1.upsamplers.0.conv.projection",
        "up_blocks.2.upsamplers.0.conv.projection",
        "up_blocks.3.resnets.2.conv2.projection",
    ]
    assert insert_projections(build("skip"), "foldable") == [
        "down_blocks.0.resnet_down.conv2.projection",
        "down_blocks.1.resnet_down.conv2.projection",
        "down_blocks.2.resnets.0.conv2.projection",
        "mid_block.resnets.1.conv2.projection",
        "up_blocks.0.resnet_up.conv2.projection",
        "up_blocks.1.resnet_up.conv2.projection",
        "up_blocks.2.resnets.1.conv2.projection",
    ]


@torch.no_grad()
def test_only_the_main_path_is_projected_under_released() -> None:
    model = build("cifar10")
    block = model.get_submodule("down_blocks.0")
    x, temb = torch.randn(1, 8, 8, 8, dtype=torch.float64), torch.randn(1, 32, dtype=torch.float64)
    main, skips = block(x, temb)
    names = insert_projections(model, "released")
    randomize(model, names)
    projected, projected_skips = block(x, temb)
    assert all(map(torch.equal, projected_skips, skips))
    W = matrix(model, names[0])[:, :, 0, 0]
    torch.testing.assert_close(projected, torch.einsum("oc,nchw->nohw", W, main), rtol=1e-12, atol=1e-12)


@each_placement
@torch.no_grad()
def test_samplers_without_a_convolution_leave_it_to_the_last_resnet(placement: str) -> None:
    model = build("cifar10")
    model.get_submodule("down_blocks.0").downsamplers[0] = Downsample2D(8, use_conv=False)
    model.get_submodule("up_blocks.2").upsamplers[0] = Upsample2D(12, use_conv=False)
    names = insert_projections(model, placement)
    if placement == "foldable":
        assert names[0] == "down_blocks.0.resnets.1.conv2.projection"
        assert names[7] == "up_blocks.2.resnets.2.conv2.projection"
    randomize(model, names)
    projected = run(model)
    staying = fold_projections(model)
    assert ("up_blocks.2.projection" in staying) == (placement == "released")
    torch.testing.assert_close(run(model), projected, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_a_convolution_known_by_two_names() -> None:
    model = build("cifar10")
    sampler = Downsample2D(8, use_conv=True, padding=0, name="conv").double()
    assert sampler.conv is sampler.Conv2d_0
    model.get_submodule("down_blocks.0").downsamplers[0] = sampler
    layout, before = shapes(model), run(model)
    names = insert_projections(model, "foldable")
    randomize(model, names)
    projected = run(model)
    assert not torch.allclose(projected, before)
    assert sampler.conv is sampler.Conv2d_0
    fold_projections(model)
    assert shapes(model) == layout
    torch.testing.assert_close(run(model), projected, rtol=1e-10, atol=1e-12)


def test_none_touches_nothing() -> None:
    model = nn.Linear(2, 2)
    assert insert_projections(model, "none") == []
    assert fold_projections(model) == []
    assert list(model.state_dict()) == ["weight", "bias"]


def test_unknown_placement() -> None:
    with pytest.raises(InputError, match="'main_path' is unknown: use one of foldable, released, none"):
        insert_projections(build("cifar10"), "main_path")


@each_placement
@pytest.mark.parametrize("again", PLACEMENTS)
def test_inserting_twice(placement: str, again: str) -> None:
    model = build("cifar10")
    insert_projections(model, placement)
    layout = shapes(model)
    with pytest.raises(InputError, match=r"'down_blocks\.0\S*' has a projection already: insert once"):
        insert_projections(model, again)
    assert shapes(model) == layout


@each_placement
def test_block_without_a_site_leaves_the_model_untouched(placement: str) -> None:
    model = build("cifar10")
    model.get_submodule("up_blocks")[1] = nn.Identity()
    layout = shapes(model)
    with pytest.raises(InputError, match=r"Identity has no site .* set projection\.placement to none"):
        insert_projections(model, placement)
    assert shapes(model) == layout


def test_model_without_blocks() -> None:
    with pytest.raises(InputError, match="Linear has no down_blocks, mid_block or up_blocks"):
        insert_projections(nn.Linear(2, 2), "foldable")
