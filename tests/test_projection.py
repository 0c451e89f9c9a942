"""Channel-wise projection: inserted it changes nothing, folded it computes the same and leaves no layer."""

import copy
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.downsampling import Downsample2D
from diffusers.models.upsampling import Upsample2D
from diffusers.training_utils import EMAModel
from safetensors.torch import load, save
from torch import Tensor, nn

from deme_core.errors import InputError
from deme_core.projection import (
    PLACEMENTS,
    ProjectedConv2d,
    fold_projections,
    insert_projections,
    projection_keys,
)

DDPM = {"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_num_groups": 4}
SMALL = {"sample_size": 8, "norm_num_groups": 4, "attention_head_dim": 4, "layers_per_block": 1}
TEXT = {**SMALL, "cross_attention_dim": 12, "in_channels": 3, "out_channels": 3}
# name -> (class, config, sites, sites that fold under `released`)
GEOMETRIES: dict[str, tuple[type, dict[str, Any], int, int]] = {
    "lsun": (
        UNet2DModel,
        {
            **DDPM,
            "sample_size": 32,
            "block_out_channels": (8, 8, 8, 8, 12, 12),
            "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
            "attention_head_dim": None,
        },
        13,
        6,
    ),
    "cifar10": (
        UNet2DModel,
        {
            **DDPM,
            "sample_size": 8,
            "block_out_channels": (8, 12, 12, 12),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": None,
        },
        9,
        4,
    ),
    "ends_in_attention": (
        UNet2DModel,
        {
            **SMALL,
            "block_out_channels": (8, 12),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
            "downsample_padding": 1,
            "mid_block_scale_factor": 1.4,
            "add_attention": False,
        },
        5,
        1,
    ),
    "resnet_samplers": (
        UNet2DModel,
        {
            **SMALL,
            "block_out_channels": (8, 12, 12),
            "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "resnet_time_scale_shift": "scale_shift",
        },
        7,
        1,
    ),
    "skip": (
        UNet2DModel,
        {
            **SMALL,
            "block_out_channels": (32, 32, 32),
            "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
            "up_block_types": ("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
            "time_embedding_type": "fourier",
            "mid_block_scale_factor": 2**0.5,
        },
        7,
        3,
    ),
    "text": (
        UNet2DConditionModel,
        {
            **TEXT,
            "block_out_channels": (8, 12),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
        5,
        1,
    ),
    "text_simple": (
        UNet2DConditionModel,
        {
            **TEXT,
            "block_out_channels": (8, 12),
            "down_block_types": ("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
            "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            "resnet_time_scale_shift": "scale_shift",
            "resnet_out_scale_factor": 1.3,
        },
        5,
        1,
    ),
    "text_k": (
        UNet2DConditionModel,
        {
            **TEXT,
            "norm_num_groups": None,
            "block_out_channels": (32, 32),
            "time_embedding_dim": 32,
            "attention_head_dim": 32,
            "act_fn": "gelu",
            "down_block_types": ("KDownBlock2D", "KCrossAttnDownBlock2D"),
            "mid_block_type": None,
            "up_block_types": ("KCrossAttnUpBlock2D", "KUpBlock2D"),
        },
        4,
        1,
    ),
}
each_geometry = pytest.mark.parametrize("geometry", GEOMETRIES)
each_placement = pytest.mark.parametrize("placement", ["foldable", "released"])


def build(geometry: str, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    cls, config, _, _ = GEOMETRIES[geometry]
    return cls(**config).to(dtype).eval()


def run(model: Any) -> Tensor:
    """The noise prediction for a fixed batch of two images."""
    generator = torch.Generator().manual_seed(1)
    size, dtype = model.config.sample_size, next(model.parameters()).dtype
    x = torch.randn(2, 3, size, size, generator=generator).to(dtype)
    inputs = [x, torch.tensor([3, 700])]
    if "cross_attention_dim" in model.config:
        inputs.append(torch.randn(2, 5, model.config.cross_attention_dim, generator=generator).to(dtype))
    return model(*inputs).sample


def matrix(model: Any, name: str) -> nn.Parameter:
    return model.get_submodule(name).weight


@torch.no_grad()
def randomize(model: nn.Module, names: list[str]) -> None:
    """W = I + 0.1·noise, as if trained."""
    for name in names:
        W: Tensor = matrix(model, name)
        W += 0.1 * torch.randn(W.shape, generator=torch.Generator().manual_seed(len(name))).to(W.dtype)


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in model.state_dict().items()}


@each_geometry
@each_placement
@torch.no_grad()
def test_insert_then_fold(geometry: str, placement: str) -> None:
    model = build(geometry)
    layout, before = shapes(model), run(model)
    _, _, sites, folding = GEOMETRIES[geometry]

    names = insert_projections(model, placement)
    assert len(names) == len(set(names)) == sites
    assert shapes(model).keys() - layout.keys() == {f"{name}.weight" for name in names}
    assert all(matrix(model, name).requires_grad for name in names)
    assert torch.equal(run(model), before)

    randomize(model, names)
    projected = run(model)
    assert (projected - before).norm() > 1e-2 * before.norm()  # else folding would be tested on nothing

    staying = fold_projections(model)
    torch.testing.assert_close(run(model), projected, rtol=1e-10, atol=1e-12)
    assert len(staying) == (0 if placement == "foldable" else sites - folding)
    assert [name for name in names if name in staying] == staying  # in the order they run
    assert shapes(model).keys() - layout.keys() == {f"{name}.weight" for name in staying}
    assert fold_projections(model) == staying  # a second time there is nothing to do
    torch.testing.assert_close(run(model), projected, rtol=1e-10, atol=1e-12)


@each_geometry
@torch.no_grad()
def test_folded_foldable_model_is_a_plain_diffusers_model(geometry: str, tmp_path: Any) -> None:
    model = build(geometry)
    layout = shapes(model)
    randomize(model, insert_projections(model, "foldable"))
    projected = run(model)
    fold_projections(model)
    assert shapes(model) == layout
    assert list(model.state_dict()) == list(layout)
    assert not any(isinstance(module, ProjectedConv2d) for module in model.modules())
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, torch_dtype=torch.float64).eval()
    torch.testing.assert_close(run(loaded), projected, rtol=1e-10, atol=1e-12)


@each_geometry
@each_placement
def test_gradients_reach_every_projection(geometry: str, placement: str) -> None:
    model = build(geometry)
    names = insert_projections(model, placement)
    run(model).square().sum().backward()
    for name in names:
        grad = matrix(model, name).grad
        assert grad is not None, name
        assert grad.isfinite().all(), name
        assert grad.norm() > 0, name


@each_placement
@torch.no_grad()
def test_deepcopy_is_independent(placement: str) -> None:
    model = build("cifar10")
    before = run(model)
    names = insert_projections(model, placement)
    twin = copy.deepcopy(model)
    randomize(twin, names)
    projected = run(twin)
    assert not torch.allclose(projected, before)
    assert torch.equal(run(model), before)
    fold_projections(twin)
    torch.testing.assert_close(run(twin), projected, rtol=1e-10, atol=1e-12)
    assert torch.equal(run(model), before)
    assert [name for name in names if isinstance(model.get_submodule(name), nn.Conv2d)] == names


@each_placement
def test_optimizer_ema_and_state_dict_round_trip(placement: str) -> None:
    model = build("cifar10", torch.float32)
    names = insert_projections(model, placement)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=True)
    ema = EMAModel(model.parameters(), decay=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        run(model).square().mean().backward()
        optimizer.step()
        ema.step(model.parameters())
    averaged = copy.deepcopy(model)
    ema.copy_to(averaged.parameters())
    for name in names:
        identity = torch.eye(matrix(model, name).shape[0])
        assert not torch.equal(matrix(averaged, name)[:, :, 0, 0], identity)
        assert not torch.equal(matrix(averaged, name), matrix(model, name))

    fresh = build("cifar10", torch.float32)
    insert_projections(fresh, placement)
    fresh.load_state_dict(load(save(averaged.state_dict())))  # through the bytes of a safetensors file
    assert torch.equal(run(fresh), run(averaged))


@each_placement
@torch.no_grad()
def test_float32(placement: str) -> None:
    model = build("lsun", torch.float32)
    before = run(model)
    randomize(model, insert_projections(model, placement))
    projected = run(model)
    assert (projected - before).norm() > 1e-2 * before.norm()
    fold_projections(model)
    torch.testing.assert_close(run(model), projected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fold_is_rounded_once(dtype: torch.dtype) -> None:
    model = build("cifar10", dtype)
    names = insert_projections(model, "foldable")
    randomize(model, names)
    conv = model.get_submodule(names[0].removesuffix(".projection"))
    W, K, b = (p.double() for p in (matrix(model, names[0]).flatten(1), conv.weight, conv.bias))
    fold_projections(model)
    assert torch.equal(conv.weight, torch.einsum("oc,cikl->oikl", W, K).to(dtype))
    assert torch.equal(conv.bias, (W @ b).to(dtype))


def test_projected_convolution_is_the_convolution_then_the_projection() -> None:
    model = build("cifar10")
    conv = model.get_submodule("down_blocks.0.downsamplers.0.conv")
    x = torch.randn(2, 8, 9, 9, dtype=torch.float64)
    F = conv(x)
    randomize(model, insert_projections(model, "foldable")[:1])
    W = conv.projection.weight
    expected = torch.einsum("oc,nchw->nohw", W[:, :, 0, 0], F)
    torch.testing.assert_close(conv(x), expected, rtol=1e-12, atol=1e-12)

    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((y * weights).sum(), [conv.weight, conv.bias, W]) for y in (conv(x), expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


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


@torch.no_grad()
def test_released_model_is_read_back_with_the_projections_that_stay() -> None:
    model = build("lsun")
    names = insert_projections(model, "released")
    assert sorted(projection_keys(model.state_dict())) == sorted(f"{name}.weight" for name in names)
    randomize(model, names)
    staying = fold_projections(model)
    state = model.state_dict()
    assert sorted(projection_keys(state)) == sorted(f"{name}.weight" for name in staying)

    fresh = build("lsun")
    insert_projections(fresh, "released")
    missing, unexpected = fresh.load_state_dict(state, strict=False)
    assert unexpected == []
    assert sorted(missing) == sorted(f"{name}.weight" for name in names if name not in staying)
    assert fold_projections(fresh) == staying
    assert torch.equal(run(fresh), run(model))


def test_projection_keys_of_other_models() -> None:
    model = build("text")
    assert projection_keys(model.state_dict()) == []
    insert_projections(model, "foldable")
    assert projection_keys(model.state_dict()) == []


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


@torch.no_grad()
def test_insertion_changes_nothing_under_autocast_and_draws_no_random_number() -> None:
    model = build("cifar10", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        before = run(model)
    state = torch.get_rng_state()
    names = insert_projections(model, "foldable")
    assert torch.equal(torch.get_rng_state(), state)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(model), before)
        matrix(model, names[0])[0, 0] += 2**-9  # would vanish in a W of bfloat16
        assert not torch.equal(run(model), before)


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
