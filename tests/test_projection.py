"""Channel-wise projection: inserted it changes nothing, folded it computes the same and leaves no layer."""

import copy
from typing import Any

import pytest
import torch
from diffusers.training_utils import EMAModel
from projected import GEOMETRIES, build, each_geometry, each_placement, matrix, randomize, run, shapes
from safetensors.torch import load, save
from torch import nn

from deme_core.projection import ProjectedConv2d, fold_projections, insert_projections, projection_keys


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


@torch.no_grad()
def test_released_model_is_read_back_with_the_projections_that_stay() -> None:
    model = build("lsun")
    names = insert_projections(model, "released")
    assert sorted(projection_keys(model.state_dict())) == sorted(f"{name}.weight" for name in names)
    randomize(model, names)
    staying = fold_projections(model)
    state_dict = model.state_dict()
    assert sorted(projection_keys(state_dict)) == sorted(f"{name}.weight" for name in staying)

    fresh = build("lsun")
    insert_projections(fresh, "released")
    missing, unexpected = fresh.load_state_dict(state_dict, strict=False)
    assert unexpected == []
    assert sorted(missing) == sorted(f"{name}.weight" for name in names if name not in staying)
    assert fold_projections(fresh) == staying
    assert torch.equal(run(fresh), run(model))


def test_projection_keys_of_other_models() -> None:
    model = build("text")
    assert projection_keys(model.state_dict()) == []
    insert_projections(model, "foldable")
    assert projection_keys(model.state_dict()) == []


@torch.no_grad()
def test_insertion_changes_nothing_under_autocast_and_draws_no_random_number() -> None:
    model = build("cifar10", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        before = run(model)
    rng_state = torch.get_rng_state()
    names = insert_projections(model, "foldable")
    assert torch.equal(torch.get_rng_state(), rng_state)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(model), before)
        matrix(model, names[0])[0, 0] += 2**-9  # would vanish in a W of bfloat16
        assert not torch.equal(run(model), before)
