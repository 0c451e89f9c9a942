"""Latents and embeddings: computed once, as diffusers computes them, and drawn from as often as one likes."""

import resource
import shutil
from pathlib import Path

import pytest
import torch
from conftest import files_of, reads_proc
from diffusers import StableDiffusionPipeline
from text_to_image import SIZE, captioned, write_data, write_stable_diffusion

from deme_core.amounts import amount
from deme_core.components import Autoencoder, TextEncoder
from deme_core.data import encode
from deme_core.data.encode import EncodeParams, encode_parts
from deme_core.data.examples import Latents, Pixels, load_examples
from deme_core.data.images import Images, load_part, to_model
from deme_core.errors import InputError
from deme_core.hub_layouts import import_pipeline
from deme_core.tensors import read_tensors, write_tensors

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd")
    import_pipeline(write_stable_diffusion(folder / "hub"), folder / "pipeline")
    return folder / "pipeline"


@pytest.fixture(scope="module")
def encoded(sd: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of images and of their examples, flips among them."""
    folder = tmp_path_factory.mktemp("encoded")
    write_data(folder / "images")
    encode_parts(sd, folder / "images", EncodeParams(flips=True), folder / "examples", folder / "work")
    return folder / "images", folder / "examples"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(n: int = 1, captions: int = 1, flips: bool = False) -> Latents:
    """n examples of mean k and deviation 0.5, whose captions have the embeddings 1, 2, …, the empty one 0."""
    mean = torch.arange(n).float()[:, None, None, None].expand(n, 1, 2, 2).contiguous()
    tensors = {
        "mean": mean, "std": torch.full_like(mean, 0.5), "captions": torch.arange(1, n * captions + 1),
        "first": torch.arange(n + 1) * captions, "embeddings": torch.arange(n * captions + 1)[:, None, None].float(),
    }  # fmt: skip
    flipped = {"mean_flipped": -mean - 100, "std_flipped": torch.zeros_like(mean)} if flips else {}
    return Latents(tensors | flipped)


# What is cached


@pytest.mark.parametrize(("part", "bias"), [("vae", float("nan")), ("vae", 1e6), ("text_encoder", float("nan"))])
def test_what_is_not_finite_is_not_written(sd: Path, tmp_path: Path, part: str, bias: float) -> None:
    """A million is finite, but not in half precision."""
    folder = shutil.copytree(sd, tmp_path / "pipeline")
    file = next((folder / part).glob("*.safetensors"))
    weights = read_tensors(file)
    key = "quant_conv.bias" if part == "vae" else next(key for key in weights if key.endswith("final_layer_norm.bias"))
    weights[key][:4] = bias
    write_tensors(file, weights)
    write_data(tmp_path / "images")
    name = "latents 0 to 7: mean" if part == "vae" else "embeddings 0 to .: embeddings"
    with pytest.raises(InputError, match=f"^{name} is not finite in half precision; VAE or text encoder are broken"):
        encode_parts(folder, tmp_path / "images", EncodeParams(flips=False), tmp_path / "out", tmp_path / "work")
    assert not list((tmp_path / "out").iterdir())


def test_mean_and_deviation_are_those_of_the_vae(sd: Path, encoded: tuple[Path, Path]) -> None:
    images, examples = encoded
    x = to_model(load_part(images, "train").pixels)
    pipeline = StableDiffusionPipeline.from_pretrained(sd, safety_checker=None)
    tensors = load_examples(examples, "train").tensors
    for suffix, pixels in (("", x), ("_flipped", x.flip(-1))):
        with torch.inference_mode():
            posterior = pipeline.vae.encode(pixels).latent_dist
        for name in ("mean", "std"):
            expected = getattr(posterior, name) * pipeline.vae.config.scaling_factor
            assert torch.allclose(tensors[name + suffix].float(), expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(tensors["mean"].flip(-1), tensors["mean_flipped"], atol=1e-3)


def test_embeddings_are_those_of_the_stock_pipeline(sd: Path, encoded: tuple[Path, Path]) -> None:
    images, examples = encoded
    captions = load_part(images, "train").captions
    pipeline = StableDiffusionPipeline.from_pretrained(sd, safety_checker=None)
    tensors = load_examples(examples, "train").tensors
    assert len(tensors["embeddings"]) == len({caption for texts in captions for caption in texts}) + 1
    for k, texts in enumerate(captions):
        rows = tensors["captions"][tensors["first"][k] : tensors["first"][k + 1]]
        assert len(rows) == len(texts)
        for row, text in zip(rows, texts, strict=True):
            theirs, blank = pipeline.encode_prompt(text, CPU, 1, True)
            assert torch.allclose(tensors["embeddings"][row].float(), theirs[0], atol=2e-3)
            assert torch.allclose(tensors["embeddings"][0].float(), blank[0], atol=2e-3)


def test_equal_input_gives_equal_bytes_and_nothing_is_left_behind(
    sd: Path, encoded: tuple[Path, Path], tmp_path: Path
) -> None:
    images, examples = encoded
    encode_parts(sd, images, EncodeParams(flips=True), tmp_path / "again", tmp_path / "work")
    assert files_of(tmp_path / "again") == files_of(examples)
    assert list((tmp_path / "work").iterdir()) == []


def test_an_interrupted_encoding_goes_on(
    sd: Path, encoded: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, examples = encoded
    monkeypatch.setattr(encode, "CHUNK", 2)
    moments, calls = Autoencoder.moments, []

    def seen(self: Autoencoder, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return moments(self, x)

    monkeypatch.setattr(Autoencoder, "moments", seen)
    for _ in range(2):
        try:
            encode_parts(sd, images, EncodeParams(flips=False), tmp_path / "out", tmp_path / "work")
        except KeyboardInterrupt:
            continue
    assert [n for n in calls if n] == [2] * (3 + 2 + 2)  # of 8 and 4 images: two chunks are not encoded again
    for part in ("train", "heldout"):
        whole, parts = (load_examples(folder, part).tensors for folder in (examples, tmp_path / "out"))
        assert all(torch.allclose(parts[key].float(), whole[key].float(), atol=1e-3) for key in parts)


@reads_proc
def test_more_chunks_are_joined_than_a_process_may_open_files(tmp_path: Path) -> None:
    chunks = [tmp_path / f"{k}.safetensors" for k in range(100)]
    for k, file in enumerate(chunks):
        write_tensors(file, {"mean": torch.full((2, 3), k, dtype=torch.float16)})
    write_tensors(tmp_path / "captions.safetensors", {"first": torch.arange(5)})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 20, limits[1]))
    try:
        encode._join([*chunks, tmp_path / "captions.safetensors"], tmp_path / "out.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    found = read_tensors(tmp_path / "out.safetensors")
    assert torch.equal(found["mean"], torch.arange(100).half().repeat_interleave(2)[:, None].expand(200, 3))
    assert torch.equal(found["first"], torch.arange(5))


def test_the_disk_cost_is_said_beforehand(
    sd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = captioned(2000)
    monkeypatch.setattr(encode, "_encode", lambda *_: [])
    monkeypatch.setattr(encode, "_join", lambda *_: None)
    encode_parts(sd, write_data(tmp_path / "images", images), EncodeParams(flips=True), tmp_path, tmp_path / "work")
    size = amount(2000 * 4 * 4 * 8 * 8 * 2 + 2 * 6 * 12 * 8 * 2, "B")
    assert f"encoding 2,000 images; this will take {size} on disk" in capsys.readouterr().out


def test_pixels_are_the_examples_of_a_plain_pipeline(
    pipeline: Path, encoded: tuple[Path, Path], tmp_path: Path
) -> None:
    encode_parts(pipeline, encoded[0], EncodeParams(flips=False), tmp_path / "out")
    examples = load_examples(tmp_path / "out", "heldout")
    assert isinstance(examples, Pixels)
    assert torch.equal(examples.pixels, load_part(encoded[0], "heldout").pixels)


def test_nothing_may_be_held_out(sd: Path, tmp_path: Path) -> None:
    images = captioned(4)
    write_data(tmp_path / "images", images)
    encode_parts(sd, tmp_path / "images", EncodeParams(flips=True), tmp_path / "out", tmp_path / "work")
    assert len(load_examples(tmp_path / "out", "train")) == 0


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (Images(captioned().pixels, captioned().labels), "images without captions: .* data.captions"),
        (captioned(size=2 * SIZE), f"data.size = {2 * SIZE}: .* 8×8 latents of {SIZE}×{SIZE} pixels; set data.size"),
        (Images(captioned().pixels.repeat(1, 3, 1, 1), *list(vars(captioned()).values())[1:]), "of 3 channel"),
    ],
)
def test_images_that_do_not_fit_are_refused(sd: Path, images: Images, message: str, tmp_path: Path) -> None:
    write_data(tmp_path / "images", images)
    with pytest.raises(InputError, match=message) as error:
        encode_parts(sd, tmp_path / "images", EncodeParams(flips=False), tmp_path / "out", tmp_path / "work")
    assert "\n" not in str(error.value)


# What is drawn


def test_latents_are_drawn_from_their_normal_distribution() -> None:
    examples = latents(3)
    index = torch.tensor([2, 0]).repeat(2000)
    x0, condition = examples.draw(index, generator())
    assert x0.shape == (4000, 1, 2, 2)
    for k, expected in ((0, 2.0), (1, 0.0)):
        assert float(x0[k::2].mean()) == pytest.approx(expected, abs=0.02)
        assert float(x0[k::2].std()) == pytest.approx(0.5, abs=0.02)
    assert condition["encoder_hidden_states"].flatten().tolist() == [3.0, 1.0] * 2000


def test_captions_flips_and_the_empty_caption_are_drawn() -> None:
    examples, index = latents(1, captions=3, flips=True), torch.zeros(6000, dtype=torch.long)
    x0, condition = examples.draw(index, generator(), flip=True, caption_dropout=0.25)
    rows = condition["encoder_hidden_states"].flatten()
    shares = torch.stack([(rows == k).float().mean() for k in range(4)])
    assert torch.allclose(shares, torch.full((4,), 0.25), atol=0.02)
    assert float((x0 < -50).float().mean()) == pytest.approx(0.5, abs=0.02)
    _, always = examples.draw(index[:9], generator(), caption_dropout=1.0)
    assert not always["encoder_hidden_states"].any()
    same = [examples.draw(index[:9], generator(seed))[0] for seed in (0, 0, 1)]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])


def test_a_flip_needs_encoded_flips() -> None:
    with pytest.raises(InputError, match=r"horizontal_flip = True: .* set encode\.flips=true"):
        latents().draw(torch.zeros(1, dtype=torch.long), generator(), flip=True)


def test_the_hash_is_that_of_everything_drawn_from() -> None:
    assert latents(2).sha256 == latents(2).sha256
    assert len({examples.sha256 for examples in (latents(2), latents(3), latents(2, 2), latents(2, flips=True))}) == 4


# Texts


def test_texts_that_are_too_long_are_counted_and_cut_as_clip_does(sd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TextEncoder(sd, CPU)
    long, exact = "1 2 3 4 5 6 7 8 9 0 1", "1 2 3 4 5 6 7 8 9 0"
    assert text.too_long([long, exact, ""]) == [long]
    text.say_too_long([long, exact, ""])
    assert capsys.readouterr().out.startswith("1 of 3 texts are longer than the 12 tokens that the text encoder takes")
    text.say_too_long([exact])
    assert capsys.readouterr().out == ""
    states = text([long, exact])
    assert torch.equal(states[0], states[1])
