"""`deme features`: what is wrong with an option is said of that option."""

from pathlib import Path

import pytest
from image_files import encoded, noise, write_folder

from deme_core.errors import InputError
from deme_core.metrics import __main__ as features


def test_an_unknown_filter_or_size_is_refused_by_its_option_and_no_image_is_blamed(
    empty_folder: Path, rgb_extractor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(empty_folder / "img", {"0.png": encoded(noise(9, 8))})
    words = ["features", "--images", "img", "--size", "8", "--extractor", str(rgb_extractor), "--out", "f.safetensors"]
    monkeypatch.setattr("sys.argv", [*words, "--resize", "foo"])
    with pytest.raises(InputError, match=r"^--resize foo: must be one of bilinear, bicubic, lanczos, box$"):
        features.main()
    monkeypatch.setattr("sys.argv", [*words, "--size", "0"])
    with pytest.raises(InputError, match=r"^--size 0: must be at least 1 pixel$"):
        features.main()
    monkeypatch.setattr("sys.argv", [*words, "--resize", "box"])
    features.main()
    assert Path("f.safetensors").is_file()
