"""Byte pair encoding (Sennrich et al. 2016) on the words of some texts, in the two files of a CLIPTokenizer."""

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

START, END = "<|startoftext|>", "<|endoftext|>"


def letters() -> list[str]:
    """The 256 bytes as CLIP and GPT-2 write them: printable ones as themselves, the others from U+0100 on."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + k) for k in range(len(hidden))]


def merges_of(texts: Iterable[str]) -> list[tuple[str, str]]:
    """The merges, most frequent first, that make each word of the texts (lower case, ASCII) one token."""
    counts = Counter(word for text in texts for word in text.lower().split())
    words = {word: (*word[:-1], f"{word[-1]}</w>") for word in sorted(counts)}
    merges = []
    while any(len(parts) > 1 for parts in words.values()):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in words.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = {word: _merged(parts, best) for word, parts in words.items()}
    return merges


def _merged(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair and not out[-1].endswith("</w>"):
            out[-1] += part
        else:
            out.append(part)
    return tuple(out)


def write_tokenizer(directory: Path, texts: Iterable[str], tokens: int) -> int:
    """Write vocab.json, merges.txt and their configs; returns the size of the vocabulary.

    Any text can be read: a word that the texts do not have falls into pieces, at worst into its bytes.

    Args:
        tokens: the longest text, START and END among them.
    """
    merges = merges_of(texts)
    single = letters()
    vocabulary = [*single, *(f"{letter}</w>" for letter in single), *("".join(pair) for pair in merges), START, END]
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    config = special | {"model_max_length": tokens, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    directory.mkdir(parents=True, exist_ok=True)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, content in (
        ("vocab.json", {token: k for k, token in enumerate(vocabulary)}),
        ("special_tokens_map.json", special),
        ("tokenizer_config.json", config),
    ):
        (directory / name).write_text(json.dumps(content, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    return len(vocabulary)
