"""The tokenizer of zoo/digits-sd: stock CLIPTokenizer reads it, and any text."""

from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, files_of
from transformers import CLIPTokenizer

TEXTS = ("a handwritten seven", "the digit 7", "a thick handwritten seven leaning left", "the number eight")
TOKENS = 12


@pytest.fixture
def tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(REPOSITORY / "zoo")
    from clip_tokenizer import write_tokenizer

    size = write_tokenizer(tmp_path / "a", TEXTS, TOKENS)
    write_tokenizer(tmp_path / "b", reversed(TEXTS), TOKENS)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    read = CLIPTokenizer.from_pretrained(tmp_path / "a", local_files_only=True)
    assert len(read) == size
    return read


def test_every_word_of_the_texts_is_one_token(tokenizer: Any) -> None:
    for text in TEXTS:
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)
        assert tokens == ["<|startoftext|>", *(f"{word}</w>" for word in text.split()), "<|endoftext|>"]


def test_any_other_text_falls_into_pieces_and_none_is_unknown(tokenizer: Any) -> None:
    for text in ("please draw sevens", "Ünïcode — 3½", "SEVEN"):
        ids = tokenizer(text).input_ids
        assert tokenizer.eos_token_id not in ids[:-1]
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.lower().replace(" ", "")


def test_texts_are_padded_and_cut_to_the_length_of_the_encoder(tokenizer: Any) -> None:
    given = tokenizer(["a", "a " * 30], padding="max_length", max_length=tokenizer.model_max_length, truncation=True)
    assert [len(ids) for ids in given.input_ids] == [TOKENS] * 2
    assert [ids[-1] for ids in given.input_ids] == [tokenizer.eos_token_id] * 2
