"""Whether a base fits a run: what its network takes and gives, against the data, the condition and the sampler.

A denoiser is called here as `model(x_t, t)`, with `encoder_hidden_states` where its pipeline has a text encoder, and
answers with a prediction of x_t's shape. Of x_0 come the images: as they are, or through the VAE of that pipeline.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deme_core.checkpoints import config_shape, denoiser_dir, shape_of, untrained_denoiser
from deme_core.components import FROZEN, Condition, blank_condition, latent_channels, pixel_shape, read_index
from deme_core.errors import InputError
from deme_core.hub_layouts import Layout, find_layout
from deme_core.json_files import blamed_on, read_json

Shape = tuple[int, int, int]  # (C, H, W)
META = torch.device("meta")  # shapes without memory or arithmetic
BESIDE = ("scheduler", *FROZEN, "safety_checker", "feature_extractor", "image_encoder")
# What a pipeline may have beside its denoiser, by the denoiser's class: another part would have a say in its input, or
# make something else of x_0.
PARTS = {"UNet2DModel": BESIDE[:1], "UNet2DConditionModel": BESIDE}
# Key of a denoiser's config -> what it then takes beside x_t, t and text, and nothing gives it here.
MORE = {
    "num_class_embeds": "a class label",
    "class_embed_type": "a class label",
    "addition_embed_type": "added conditions (added_cond_kwargs, as Stable Diffusion XL)",
    "encoder_hid_dim_type": "hidden states of another encoder",
    "time_cond_proj_dim": "the guidance scale",
}


def check_base(source: Path, images: Shape | None, *, captions: bool) -> None:
    """Refuse a base, in any layout, that does not fit the images or what is called here.

    Args:
        images: shape of the data; None where the run has none.
        captions: whether they have captions.

    Raises:
        InputError: it names what does not fit, and what would.
    """
    layout = find_layout(source)
    network, file = untrained_denoiser(layout.denoiser), layout.denoiser / "config.json"
    root, text = layout.root, type(network).__name__ == "UNet2DConditionModel"
    if root is not None:
        _check_parts(root, PARTS[type(network).__name__])
    shape = config_shape(file)
    if not text or root is None:
        check_network(network, str(file), shape)
        _check_variance(layout)
        check_images(images, shape, str(source))
        return
    if (latent := latent_channels(root)) != shape[0]:
        raise InputError(
            f"{file}: in_channels {shape[0]}, and the latents of the VAE have {latent}: x_t goes in alone here, without"
            " the mask or image of an inpainting or depth model; take a text-to-image base"
        )
    check_network(network, str(file), shape, blank_condition(root, 1, META))
    _check_variance(layout)
    if not captions:
        raise InputError(
            f"images without captions: {source} is a text-to-image pipeline; name their column with data.captions (of"
            " metadata.jsonl or metadata.csv beside the images: text)"
        )
    check_images(images, pixel_shape(root, shape), str(source), f" {shape[1]}×{shape[2]} latents of")


def check_architecture(architecture: Mapping[str, Any], images: Shape | None) -> None:
    """Refuse a UNet2DModel that is yet to be trained, by its arguments, where it does not fit the images."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    name = "pretrain_load.train.architecture"
    with blamed_on(Path("params.yaml"), f"no UNet2DModel can be built from {name}"), META:
        network = UNet2DModel(**architecture)
    check_network(network, name, shape := shape_of(network.config, name))
    check_images(images, shape, name)


def check_network(network: Any, name: str, shape: Shape, condition: Condition | None = None) -> None:
    """Refuse a denoiser that takes more than x_t, t and the condition, or gives another shape than that of x_t.

    Args:
        network: on the device meta.
        name: what a message calls it.
        condition: of one image.
    """
    config = network.config
    for key, what in MORE.items():
        if config.get(key) is not None:
            raise InputError(
                f"{name}: {key} {config[key]!r}: it takes {what}, which nothing here gives it; take a base without"
            )
    takes, gives = config["in_channels"], config["out_channels"]
    if takes != gives:
        variance = ", a learned variance with it" if gives == 2 * takes else ""
        raise InputError(
            f"{name}: in_channels {takes}, out_channels {gives}{variance}: a prediction has the shape of x_t here, and"
            " no sampler reads more; take a base with as many channels out as in"
        )
    with blamed_on(Path(name), "the network cannot be called with x_t of its sample_size, t and the text's embedding"):
        given = {key: value.to(META) for key, value in (condition or {}).items()}
        answer = network(torch.zeros(1, *shape, device=META), torch.zeros(1, device=META), **given).sample
        if (found := tuple(answer.shape[1:])) != shape:
            raise InputError(f"gives {list(found)} for an x_t of {list(shape)}; take a base that keeps the shape")


def check_images(images: Shape | None, makes: Shape, base: str, of: str = "") -> None:
    """Refuse data of another shape than that of the images that a base makes.

    Args:
        of: what stands between `works on` and the size, for a base that works on latents.
    """
    if images is None or images == makes:
        return
    if images[0] != makes[0]:
        grey = {1: "set data.grey=true, or ", 3: "take images in colour with data.grey=false, or "}.get(makes[0], "")
        raise InputError(
            f"images of {images[0]} channel(s): {base} makes images of {makes[0]}; {grey}take a base of {images[0]}"
        )
    remedy = f"set data.size={makes[1]}" if makes[1] == makes[2] else "images are square here, take a base of such"
    raise InputError(
        f"params: data.size = {images[1]}: the denoiser of {base} works on{of} {makes[1]}×{makes[2]} pixels; {remedy}"
    )


def _check_parts(root: Path, known: tuple[str, ...]) -> None:
    index = read_json(root / "model_index.json", {"_class_name": str | None})
    parts = read_index(root)
    denoiser = denoiser_dir(root).name
    if more := sorted(parts.keys() - {denoiser, *known}):
        raise InputError(
            f"{root}: a {index.get('_class_name') or 'pipeline'} has the part '{more[0]}' ({parts[more[0]]}), without"
            " which its denoiser's x_0 is no image, or its input not whole; read are pipelines of"
            f" {', '.join([denoiser, *known])}"
        )


def _check_variance(layout: Layout) -> None:
    kind = read_json(layout.scheduler, {"variance_type": str | None}).get("variance_type") or ""
    if kind.startswith("learned"):
        raise InputError(
            f"{layout.scheduler}: variance_type '{kind}', and the network gives no variance; write one as fixed_small"
        )
