"""safetensors files: the same bytes every time, whole or not there, equal to what safetensors itself reads."""

import json
from pathlib import Path

import pytest
import torch
from conftest import lies_in, python, reads_proc
from safetensors.torch import load_file, save_file

from deme_core.errors import InputError
from deme_core.tensor_files import DTYPES, Tensors
from deme_core.tensors import (
    atomic_file,
    check_same_layout,
    map_tensors,
    read_recipe,
    read_tensors,
    shapes,
    stream_tensors,
    weights_hash,
    write_tensors,
)

RECIPE = {"weights": [0.1, 0.25], "name": "θ", "nested": {"b": 1, "a": None}}


def example() -> dict[str, torch.Tensor]:
    """A tensor of every dtype; a scalar, an empty one and one that is not contiguous."""
    generator = torch.Generator().manual_seed(0)
    values = 100 * torch.randn(3, 5, generator=generator)
    tensors = {f"dtype.{name}": values.to(dtype) for dtype, name in DTYPES.items()}
    special = {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 4), "transposed": values.T}
    return tensors | special | {"nan": torch.tensor([float("nan"), -0.0, float("inf")])}


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))


def test_safetensors_reads_every_dtype_and_shape_back(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_tensors(file, example(), RECIPE)
    for read in (load_file(file), read_tensors(file)):
        assert read.keys() == example().keys()
        for key, value in example().items():
            assert same_bits(read[key], value), key
    assert shapes(file) == {key: tuple(value.shape) for key, value in example().items()}
    assert read_recipe(file) == RECIPE


def test_equal_input_gives_equal_bytes_in_any_order_and_any_process(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.safetensors" for i in range(4)]
    write_tensors(files[0], example(), RECIPE)
    write_tensors(files[1], dict(reversed(example().items())), dict(reversed(RECIPE.items())))
    code = """
import sys
from pathlib import Path
from deme_core.tensors import read_recipe, read_tensors, write_tensors
source, target = map(Path, sys.argv[1:])
tensors, recipe = read_tensors(source), read_recipe(source)
write_tensors(target, {key: tensors[key] for key in set(tensors)}, {key: recipe[key] for key in set(recipe)})
"""
    for seed, file in zip("12", files[2:], strict=True):
        run = python(code, files[0], file, PYTHONHASHSEED=seed)
        assert run.returncode == 0, run.stderr
    assert len({file.read_bytes() for file in files}) == 1


def test_the_header_is_aligned_and_the_data_lie_without_gaps(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", example())
    data = (tmp_path / "a").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert (8 + length) % 8 == 0
    offsets = [entry["data_offsets"] for entry in header.values()]
    assert list(header) == sorted(header)
    assert [start for start, _ in offsets] == [0, *(end for _, end in offsets[:-1])]
    assert offsets[-1][1] == len(data) - 8 - length


def test_tensors_are_asked_for_one_by_one_in_the_order_of_the_file(tmp_path: Path) -> None:
    tensors, asked = example(), []
    layout = {key: (value.dtype, tuple(value.shape)) for key, value in tensors.items()}
    stream_tensors(tmp_path / "a", layout, lambda key: asked.append(key) or tensors[key], RECIPE)
    write_tensors(tmp_path / "b", tensors, RECIPE)
    assert asked == sorted(tensors)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("value", [torch.zeros(3), torch.zeros(2, dtype=torch.float64)])
def test_a_tensor_other_than_announced_is_our_mistake(tmp_path: Path, value: torch.Tensor) -> None:
    with pytest.raises(AssertionError, match="key"):
        stream_tensors(tmp_path / "a", {"key": (torch.float32, (2,))}, lambda _: value)
    assert not (tmp_path / "a").exists()


def test_a_writer_that_fails_midway_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk full"), atomic_file(tmp_path / "a") as file:
        file.write(b"half")
        raise OSError("disk full")
    assert not (tmp_path / "a").exists()


def test_a_writer_that_fails_midway_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_tensors(file, {"x": torch.ones(3)})
    before = file.read_bytes()

    def tensor(key: str) -> torch.Tensor:
        assert file.read_bytes() == before
        if key == "y":
            raise RuntimeError("out of memory")
        return torch.zeros(3)

    with pytest.raises(RuntimeError, match="out of memory"):
        stream_tensors(file, {"x": (torch.float32, (3,)), "y": (torch.float32, (3,))}, tensor)
    assert file.read_bytes() == before
    write_tensors(file, {"x": torch.zeros(3)})
    assert torch.equal(read_tensors(file)["x"], torch.zeros(3))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_writer_that_fails_midway_leaves_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk full"), atomic_file(tmp_path / "a"):
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "cut.safetensors"
    write_tensors(file, example())
    file.write_bytes(file.read_bytes()[:keep])
    for read in (read_tensors, shapes, read_recipe, weights_hash):
        with pytest.raises(InputError, match=r"cut\.safetensors is no whole safetensors file .* again"):
            read(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"none\.safetensors: no such file"),
        Tensors(tmp_path / "none.safetensors"),
    ):
        pass


def test_a_file_of_another_writer_has_no_recipe(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "a")
    save_file({"x": torch.ones(2)}, tmp_path / "b", metadata={"format": "pt"})
    assert read_recipe(tmp_path / "a") == read_recipe(tmp_path / "b") == {}


def test_weights_hash_is_independent_of_writer_and_metadata(tmp_path: Path) -> None:
    tensors = {key: value.contiguous() for key, value in example().items()}
    write_tensors(tmp_path / "a", tensors)
    write_tensors(tmp_path / "b", tensors, RECIPE)
    save_file(tensors, tmp_path / "c", metadata={"other": "writer"})
    assert len({weights_hash(tmp_path / name) for name in "abc"}) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"x": torch.tensor([1.0, 3.0])},
        {"y": torch.tensor([1.0, 2.0])},
        {"x": torch.tensor([[1.0, 2.0]])},
        {"x": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {"x": torch.tensor([1.0, 2.0]).view(torch.int32)},
        {"x": torch.tensor([1.0, 2.0]), "y": torch.empty(0)},
    ],
)
def test_weights_hash_tells_values_names_shapes_and_dtypes_apart(
    tmp_path: Path, other: dict[str, torch.Tensor]
) -> None:
    write_tensors(tmp_path / "a", {"x": torch.tensor([1.0, 2.0])})
    write_tensors(tmp_path / "b", other)
    assert weights_hash(tmp_path / "a") != weights_hash(tmp_path / "b")


def test_layouts_that_differ_are_refused_by_name() -> None:
    layout = {"a": (2, 3), "b": (4,)}
    check_same_layout(layout, dict(reversed(layout.items())), "one", "other")
    with pytest.raises(InputError, match="one and other are different architectures: one has 'c', other has not"):
        check_same_layout(layout | {"c": (1,)}, layout, "one", "other")
    with pytest.raises(InputError, match="other has 'b', one has not"):
        check_same_layout({"a": (2, 3)}, layout, "one", "other")
    with pytest.raises(InputError, match=r"'a' has shape \[3, 2\] in one, \[2, 3\] in other"):
        check_same_layout(layout | {"a": (3, 2)}, layout, "one", "other")


# Maps


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_keys_of_a_wrapped_model_are_refused_with_the_prefix_and_the_remedy(prefix: str) -> None:
    plain = {"a": (2, 3), "b": ()}
    wrapped = {prefix + key: shape for key, shape in plain.items()}
    first = prefix.split(".")[0]
    for actual, expected, owner in ((wrapped, plain, "one"), (plain, wrapped, "other"), (wrapped, wrapped, "one")):
        with pytest.raises(InputError, match=rf"^{owner}: every key begins with '{first}\.'.* model\.{first}\.save"):
            check_same_layout(actual, expected, "one", "other")


@reads_proc
def test_mapped_tensors_are_those_that_are_read_and_lie_in_the_file_where_aligned(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    write_tensors(whole, example())
    mapped = map_tensors(whole)
    assert mapped.keys() == example().keys()
    for key, value in example().items():
        assert same_bits(mapped[key], value), key
        assert not lies_in(read_tensors(whole)[key], whole)
        assert mapped[key].data_ptr() % mapped[key].element_size() == 0
    with Tensors(whole) as tensors:
        aligned = {key for key, (_, place) in tensors.places.items() if place % example()[key].element_size() == 0}
    inside = {key for key, value in mapped.items() if lies_in(value, whole)}
    assert inside == aligned - {"empty"}
    assert inside and set(mapped) - inside  # a bool of 15 bytes comes first


@reads_proc
def test_the_shards_of_an_index_are_mapped(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0), "b": torch.arange(4), "c": torch.ones(2, 3)}
    places = {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}
    for shard in set(places.values()):
        write_tensors(tmp_path / shard, {key: tensors[key] for key, place in places.items() if place == shard})
    (tmp_path / "w.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    mapped = map_tensors(tmp_path / "w.safetensors.index.json")
    assert mapped.keys() == tensors.keys()
    for key, value in tensors.items():
        assert same_bits(mapped[key], value)
        assert lies_in(mapped[key], tmp_path / places[key])
