"""Channel-wise projection P(F) = W·F (DeMe, Sec. 3.2), and folding it into the network.

F is a feature map [C, H, W] and W a matrix [C, C], the identity at the start. Every W is stored as a
bias-free 1x1 convolution named `projection`, [C, C, 1, 1]. Each down block, mid block and up block gets one:

- `foldable`: W follows one convolution K of the block, as (W·K, W·b), and folds back into it. K is the
  block's down- or up-sampling convolution (conv2 of a ResNet sampler, so the residual branch only); in a
  block without one, conv2 of the last resnet, (x + W·conv2(h)) / scale, also where attention follows it.
- `released`, the order of the authors' code: W follows the whole block on the main path; the skips that a
  down block pushes stay unprojected. Few of these fold, see `fold_projections`.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from deme_core.errors import InputError

PLACEMENTS = ("foldable", "released", "none")

# Score-based U-Nets downsample in `resnet_down`; their `downsamplers` are a FIR filter on the image.
_SAMPLERS = ("resnet_down", "resnet_up", "downsamplers", "upsamplers")
_RELEASED_KEY = re.compile(r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.projection\.weight")


class ProjectedConv2d(nn.Conv2d):
    """K followed by W: `weight` and `bias` stay those of K, under their names; W is `projection.weight`."""

    projection: nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        """Run as the one convolution (W·K, W·b): [N, C_in, H, W] => [N, C, H', W']."""
        # In the parameters' own precision: half precision, under autocast, would round away a W close to I.
        with torch.autocast(x.device.type, enabled=False):
            weight = _product(self.projection.weight, self.weight)
            bias = None if self.bias is None else _product(self.projection.weight, self.bias)
        return self._conv_forward(x, weight, bias)


def insert_projections(denoiser: nn.Module, placement: str) -> list[str]:
    """Give every block of a diffusers U-Net its W = I, in place; the output stays what it was (Sec. 3.2).

    Args:
        denoiser: UNet2DModel, UNet2DConditionModel or alike; any module for the placement `none`.
        placement: one of PLACEMENTS.

    Returns:
        The names of the projections in the order they run: `denoiser.get_submodule(name).weight` is W.

    Raises:
        InputError: unknown placement, projections there already, no blocks, or a block without a site.
    """
    if placement not in PLACEMENTS:
        raise InputError(f"projection.placement '{placement}' is unknown: use one of {', '.join(PLACEMENTS)}")
    names = {module: name for name, module in denoiser.named_modules()}
    for module, name in names.items():
        if isinstance(module, ProjectedConv2d) or _project_output in module._forward_hooks.values():
            raise InputError(f"'{name}' has a projection already: insert once, into a model without any")
    if placement == "none":
        return []
    sites = [(block, _site(block)) for _, block in blocks_of(denoiser)]  # all found before the first change
    if not sites:
        raise InputError(
            f"{type(denoiser).__name__} has no down_blocks, mid_block or up_blocks: pass a diffusers U-Net"
            " (not a wrapper of it), or set projection.placement to none"
        )
    for block, conv in sites:
        if placement == "foldable":
            conv.projection = _identity(conv)
            # A swapped class keeps the module, hence its parameters, its hooks and every name it is known by.
            conv.__class__ = ProjectedConv2d
        else:
            block.projection = _identity(conv)
            block.register_forward_hook(_project_output)
    return [f"{names[conv if placement == 'foldable' else block]}.projection" for block, conv in sites]


@torch.no_grad()
def fold_projections(denoiser: nn.Module) -> list[str]:
    """Multiply every W into the convolutions it follows, where that is exact, and remove it, in place.

    Of `foldable` all fold, and a plain diffusers model is left. Of `released` those fold that follow an up
    block ending in an up-sampling convolution, or in a resnet whose shortcut is a convolution too. The others
    stay: a down block's output is also a skip, and an identity shortcut or an attention's residual is no
    convolution.

    The product is formed in float64 and stored in the parameter's own dtype; W = I leaves every bit as it is.
    Hence a model saved with the projections that stay is read back by inserting all of them, loading with
    strict=False (the absent ones remain I) and folding again.

    Returns:
        The names of the projections that stay, in the order they run.
    """
    for module in list(denoiser.modules()):
        if isinstance(module, ProjectedConv2d):
            _fold_into(module, module.projection.weight)
            del module.projection
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
    staying = []
    for name, block in blocks_of(denoiser):
        # Found by search: a handle kept from the insertion would not know the hooks of a deepcopy.
        hook = next((key for key, hook in block._forward_hooks.items() if hook is _project_output), None)
        if hook is None:
            continue
        summands = _summands(block) if name.startswith("up_blocks.") else []
        if not summands:
            staying.append(f"{name}.projection")
            continue
        for conv in summands:
            _fold_into(conv, block.projection.weight)
        del block.projection, block._forward_hooks[hook]
    return staying


def projection_keys(state_dict_keys: Iterable[str]) -> list[str]:
    """The keys of `released` projections, before or after folding; a plain diffusers model has none."""
    return [key for key in state_dict_keys if _RELEASED_KEY.fullmatch(key)]


def blocks_of(denoiser: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, block) in the order the blocks run, which is not the order of named_modules."""
    for stage in ("down_blocks", "mid_block", "up_blocks"):
        module = getattr(denoiser, stage, None)
        if isinstance(module, nn.ModuleList):
            yield from ((f"{stage}.{i}", block) for i, block in enumerate(module))
        elif module is not None:
            yield stage, module


def _site(block: nn.Module) -> nn.Conv2d:
    """The convolution that W follows under `foldable`; it has the output channels of the block."""
    for attribute in (*_SAMPLERS, "resnets"):  # a sampler without a convolution leaves it to the last resnet
        for name in ("conv2", "conv"):
            conv: Any = getattr(_last(block, attribute), name, None)
            if _is_plain(conv):
                return conv
    raise InputError(
        f"{type(block).__name__} has no site for a projection, a plain Conv2d in its sampler or last resnet:"
        " use another block type, or set projection.placement to none"
    )


def _summands(block: nn.Module) -> list[nn.Conv2d]:
    """The convolutions whose sum, up to a factor, is an up block's output; [] where it is more than that."""
    samplers = [sampler for name in _SAMPLERS if (sampler := _last(block, name)) is not None]
    if not samplers and getattr(block, "attentions", None):
        return []
    end: Any = samplers[0] if samplers else _last(block, "resnets")
    names = ("conv2", "conv_shortcut") if hasattr(end, "conv2") else ("conv",)
    convs: list[Any] = [getattr(end, name, None) for name in names]
    return convs if all(map(_is_plain, convs)) else []


def _last(block: nn.Module, name: str) -> Any:
    """The attribute of that name, its last entry if it is a list; None if there is none."""
    found = getattr(block, name, None)
    return next(reversed(found), None) if isinstance(found, nn.ModuleList) else found


def _is_plain(module: Any) -> bool:
    """Whether it is a Conv2d whose outputs all see all inputs; a subclass may compute something else."""
    return type(module) is nn.Conv2d and module.groups == 1


def _identity(conv: nn.Conv2d) -> nn.Conv2d:
    """W = I for the output of `conv`. Draws no random number, so that a seeded run stays what it was."""
    C, like = conv.out_channels, {"device": conv.weight.device, "dtype": conv.weight.dtype}
    projection = nn.utils.skip_init(nn.Conv2d, C, C, kernel_size=1, bias=False, **like)
    nn.init.dirac_(projection.weight)
    return projection


def _project_output(block: Any, args: tuple, output: Any) -> Any:
    """Forward hook. A block with skips returns (main path, skips, ...), another one the main path alone."""
    if isinstance(output, tuple):
        return block.projection(output[0]), *output[1:]
    return block.projection(output)


def _product(W: Tensor, parameter: Tensor) -> Tensor:
    """W·K or W·b: [C, C, 1, 1], [C, ...] => [C, ...]."""
    return torch.tensordot(W[:, :, 0, 0], parameter, dims=1)


def _fold_into(conv: nn.Conv2d, W: Tensor) -> None:
    for parameter in (conv.weight, conv.bias):
        if parameter is not None:  # on the CPU, because not every accelerator has float64
            parameter.copy_(_product(W.to("cpu", torch.float64), parameter.to("cpu", torch.float64)))
