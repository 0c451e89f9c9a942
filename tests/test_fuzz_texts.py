"""Any text in the place of prompts, captions or a config: a result or an InputError of one line, without a gigabyte.

Texts are drawn, or torn. `DEME_FUZZ=100 pytest tests/test_fuzz_texts.py` takes a hundred times as many examples.
"""

import json
from pathlib import Path

import pytest
from fuzzing import fuzz, outcome, source, torn
from hypothesis import given
from hypothesis import strategies as st
from image_files import encoded, noise

from deme_core.errors import InputError
from deme_core.json_files import read_json
from deme_core.metrics.features import read_config
from deme_core.prompts.table import SOURCES as PROMPTS

pytestmark = pytest.mark.usefixtures("own_cache")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("text", "file_name", "annotations", "id", "image_id", "caption", "0", "1")), inner
        )
    ),
    max_leaves=8,
)

PIECES = (
    "0", "1", "tench", "n01440764", " ", "\n", "\t", ",", '"', "'", "{", "}", "[", "]", ":", "\\ud800", "\ufeff", "\0",
    "Prompt", "file_name", "text", "a.png", "\r", "\u2028", "é", "1e999", "NaN", "null", "9" * 5000,
)  # fmt: skip

TEXTS = (
    st.binary(max_size=64)
    | st.lists(st.sampled_from(PIECES), max_size=20).map(lambda pieces: "".join(pieces).encode())
    | JSON.map(lambda value: json.dumps(value).encode())
    | torn([b'{"file_name": "a.png", "text": "a"}\n', b"file_name,text\na.png,a\n", b"Prompt\tCategory\na\tb\n",
            b"{0: 'tench, Tinca tinca', 1: 'goldfish'}", b"0 tench\n1 goldfish\n", b'{"0": ["n01440764", "tench"]}',
            b'{"annotations": [{"image_id": 1, "id": 1, "caption": "a"}]}', b'{"_class_name": "Pixels"}'])
)  # fmt: skip


@fuzz(500)
@given(TEXTS)
def test_prompts(data: bytes) -> None:
    def read(folder: Path, data: bytes) -> object:
        (folder / "a.json").write_bytes(data)
        (folder / "a.txt").write_bytes(data)
        for reader in PROMPTS.values():
            for file in ("a.json", "a.txt"):
                try:
                    reader(folder / file)
                except InputError as error:
                    assert "\n" not in str(error) and len(str(error)) < 2000
        return None

    outcome(read, data)


@fuzz(300)
@given(TEXTS, st.sampled_from(("metadata.jsonl", "metadata.csv")))
def test_captions(data: bytes, table: str) -> None:
    def read(folder: Path, data: bytes) -> object:
        (folder / table).write_bytes(data)
        return source("folder", "a.png", captions="text")(folder, encoded(noise(8, 8)))

    outcome(read, data)


@fuzz(300)
@given(TEXTS)
def test_configs(data: bytes) -> None:
    def read(folder: Path, data: bytes) -> object:
        (folder / "config.json").write_bytes(data)
        try:
            read_json(folder / "config.json", {"a": int, "b": str | None})
        except InputError as error:
            assert "\n" not in str(error)
        return read_config(folder)

    outcome(read, data)
