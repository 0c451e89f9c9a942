"""Prompt sets, read from a few lines of each format."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY

from deme_core.data.digit_captions import PLAIN, WORDS
from deme_core.data.images import Images, save_part
from deme_core.errors import InputError
from deme_core.paths import at_home
from deme_core.prompts.saved import search_prompts
from deme_core.prompts.settings import PromptParams, Prompts, of_images
from deme_core.prompts.table import SOURCES, load_prompts, prompt_params

COCO = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 42, "file_name": "b.jpg"}, {"id": 139, "file_name": "c.jpg"}],
    "annotations": [
        {"image_id": 42, "id": 5, "caption": "A late caption."},
        {"image_id": 42, "id": 3, "caption": "Two dogs\n on a  sofa. "},
        {"image_id": 7, "id": 9, "caption": "A bus."},
        {"image_id": 139, "id": 1, "caption": ""},
    ],
}
PARTI = (
    "Prompt\tCategory\tChallenge\tNote\n"
    '"Stop" in red letters\tIllustrations\tBasic\t\n'
    'a sign that says "go"\tArtifacts\tComplex\tletters\n'
    "\n"
)


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def texts(source: str, path: str, **changes: Any) -> tuple[str, ...]:
    return load_prompts("mine", PromptParams(source=source, path=path, **changes)).texts


def test_coco_gives_the_first_caption_of_each_image(tmp_path: Path) -> None:
    path = written(tmp_path / "captions.json", json.dumps(COCO))
    assert set(texts("coco", path)) == {"Two dogs on a sofa.", "A bus."}


def test_the_choice_of_captions_is_fixed_and_a_longer_one_begins_with_it(tmp_path: Path) -> None:
    rows = [{"image_id": k, "id": k, "caption": f"caption {k}"} for k in range(50)]
    whole = texts("coco", written(tmp_path / "a.json", json.dumps({"annotations": rows})))
    turned = written(tmp_path / "b.json", json.dumps({"annotations": rows[::-1]}))
    assert texts("coco", turned, count=20) == whole[:20]
    assert whole[:4] == ("caption 39", "caption 49", "caption 9", "caption 46")
    assert len(set(whole)) == 50


@pytest.mark.parametrize(
    "content",
    [
        '{"0": ["n01440764", "tench"], "1": ["n01443537", "great_white_shark"]}',
        '{"1": "great_white_shark", "0": "tench"}',
    ],
)
def test_class_names_of_a_class_index(tmp_path: Path, content: str) -> None:
    assert texts("imagenet", written(tmp_path / "index.json", content)) == ("tench", "great white shark")


def test_class_names_of_a_text_file(tmp_path: Path) -> None:
    path = written(tmp_path / "names.txt", "n01440764 tench, Tinca tinca\n\nnine-banded armadillo\n")
    assert texts("imagenet", path, template="a photo of a {}") == (
        "a photo of a tench", "a photo of a nine-banded armadillo",
    )  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        "{0: 'tench, Tinca tinca',\n 1: 'great white shark, white shark'}",
        "[('n01440764', 'tench'), ('n01443537', 'great_white_shark')]",
        '["tench", "great white shark"]',
        '[["n01440764", "tench"], ["n01443537", "great_white_shark"]]',
        '{"tench": 0, "great white shark": 1}',
        "{1: 'tench', 2: 'great white shark'}",
        "0 tench\n1 great white shark\n",
        "1: great white shark\n0: tench, Tinca tinca\n",
        "0,tench\r\n1,great white shark\r\n",
        '0,"tench, Tinca tinca"\n1,"great white shark, white shark"\n',
        "n01440764 tench\nn01443537\tgreat_white_shark, white shark",
        "n01440764 1 tench\nn01443537 2 great_white_shark",
        "0 n01440764 tench\n1 n01443537 great_white_shark",
        "0: 'tench, Tinca tinca',\n1: 'great white shark',",
        "'tench',\n'great white shark',\n",
    ],
)
@pytest.mark.parametrize("name", ["names.txt", "names.json"])
def test_class_names_come_in_many_forms(tmp_path: Path, content: str, name: str) -> None:
    if name.endswith(".json") and not content.startswith(("{", "[")):
        name = "names.csv"
    assert texts("imagenet", written(tmp_path / name, content)) == ("tench", "great white shark")


def test_a_list_keeps_names_that_look_like_numbered_ones(tmp_path: Path) -> None:
    assert texts("imagenet", written(tmp_path / "a.json", '["7 up", "cola"]')) == ("7 up", "cola")
    assert texts("imagenet", written(tmp_path / "a.txt", "0\n1\n")) == ("0", "1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0 tench\ngoldfish", "some lines begin with a number, and others, as 'goldfish', do not"),
        ("index,name\n0,tench", "some lines begin with a number"),
        ("0 tench\n0 goldfish", "'0' stands twice"),
        ("n01440764\nn01443537", "'n01440764' is no name"),
        ("names:\n  tench", "the line 'names:' is no name"),
        ("# classes\ntench", "is no name"),
        ("- tench\n- goldfish", "is no name"),
        ("'tench', 'goldfish'", "is no name"),
        ("tench\t0\ngoldfish\t1", "is no name"),
        ("{0: 'tench', 0: 'goldfish'}", "'0' stands twice"),
        ('{"0": "tench", "0": "goldfish"}', "stands twice"),
        ("{0: 'tench', 5: 'goldfish'}", "keys are not 0, 1"),
        ('["tench", 5]', "5.* is no name"),
        ('["tench", ""]', "'' is no name"),
        ("{0: 'tench'", "not a list of class names"),
        ("[" * 100_000, "not a list of class names"),
    ],
)
def test_what_would_be_taken_for_names_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        texts("imagenet", written(tmp_path / "names.txt", content))
    assert "\n" not in str(error.value)


def test_a_sign_that_is_no_end_of_a_line_parts_no_prompt(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.txt", "a\u2028cat\na\x0bdog\na\x85fox\n")
    assert texts("file", path) == ("a\u2028cat", "a\x0bdog", "a\x85fox")


@pytest.mark.parametrize("number", ["7.5", "Infinity", "true", "null"])
def test_an_id_that_is_no_whole_number_is_refused(tmp_path: Path, number: str) -> None:
    rows = f'{{"annotations": [{{"image_id": {number}, "id": 1, "caption": "a"}}]}}'
    with pytest.raises(InputError, match="not a captions JSON of COCO"):
        texts("coco", written(tmp_path / "x.json", rows))


def test_images_without_a_caption_are_left_out_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts("coco", written(tmp_path / "captions.json", json.dumps(COCO)))
    assert "left out images whose captions are blank: 1 (139)" in capsys.readouterr().out


def test_the_home_of_a_user_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path / "mine.txt", "a\n")
    assert texts("file", at_home("~/mine.txt")) == ("a",)


def test_parti_prompts_keep_their_quotation_marks(tmp_path: Path) -> None:
    path = written(tmp_path / "parti.tsv", PARTI)
    assert texts("parti", path) == ('"Stop" in red letters', 'a sign that says "go"')


def test_a_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.txt", "\ufeffa {braced} cat \n\n  ein Hündchen\n")
    assert texts("file", path) == ("a {braced} cat", "ein Hündchen")


def test_held_out_captions_are_one_an_image(tmp_path: Path) -> None:
    pixels, labels = torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)
    save_part(tmp_path, "heldout", Images(pixels, labels, (("a", "b"), ("c", "d"), ("e",))))
    assert texts("heldout", str(tmp_path)) == ("a", "d", "e")
    save_part(tmp_path, "heldout", Images(pixels, labels))
    with pytest.raises(InputError, match="its held-out images have no captions; choose a data set that has"):
        texts("heldout", str(tmp_path))
    with pytest.raises(InputError, match="no held-out images; give the output of the stage data"):
        texts("heldout", str(tmp_path / "nothing"))


def test_images_take_the_prompts_in_turn() -> None:
    prompts = Prompts("mine", ("a", "b", "c"), each=2)
    assert prompts.images == 6
    assert of_images(prompts.texts, range(prompts.images)) == list("abcabc")
    assert of_images(prompts.texts, range(2, 5)) == list("cab")
    assert of_images((), range(3)) == []


def test_a_search_takes_captions_in_turn_with_its_sets(tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text(json.dumps({"texts": ["one", "two"], "each": 5}))
    (tmp_path / "free.json").write_text(json.dumps({"texts": ["x"], "each": 1}))
    captions = ("a", "b", "c")
    assert search_prompts(captions, tmp_path / "nothing", []) == captions
    both = search_prompts(captions, tmp_path, ["names", "free"])
    assert both == ("a", "one", "x", "b", "two", "x", "c", "one", "x")
    assert search_prompts((), tmp_path, ["names"]) == ()  # an unconditional model
    with pytest.raises(InputError, match=r"other\.json: no such file; `dvc repro prompts@other` writes it"):
        search_prompts(captions, tmp_path, ["other"])


@pytest.mark.parametrize("source", [source for source in SOURCES if source != "heldout"])
def test_a_file_that_is_missing_empty_or_no_text_is_one_clear_line(tmp_path: Path, source: str) -> None:
    for content, rule in ((None, "no such file"), (b" \n", "the file is empty"), (b"\xff\xfe\x00", "not a text file")):
        path = tmp_path / f"{source}.json"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=rf"{source}\.json: {rule}.* are expected there: \S+") as error:
            texts(source, str(path))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("coco", "[1, 2]", "not a captions JSON of COCO"),
        ("coco", "Prompt\tCategory", "not a captions JSON of COCO"),
        ("coco", '{"annotations": [{"caption": "a"}]}', "KeyError: 'image_id'.*cocodataset"),
        ("coco", '{"annotations": []}', "holds no prompt"),
        ("imagenet", '{"0": "a", "2": "b"}', "not a list of class names .*keys are not 0, 1"),
        ("imagenet", "no json", "not a list of class names"),
        ("imagenet", '{"0": []}', "not a list of class names"),
        ("parti", "a prompt\nanother", "no column 'Prompt' in its first line, which names a prompt; .*google-research"),
        ("parti", "Prompt\tCategory\nx", "line 2 has 1 cells, the first line 2"),
    ],
)
def test_another_format_is_one_clear_line(tmp_path: Path, source: str, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        texts(source, written(tmp_path / "x.json", content))
    assert "\n" not in str(error.value)


def test_what_params_cannot_mean_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.txt", "a\nb\n")
    with pytest.raises(InputError, match=r"prompts\.mine\.source = 'cocoa': known are coco, imagenet, parti, file"):
        texts("cocoa", path)
    with pytest.raises(InputError, match=r"prompts\.mine\.count = 3: .*mine\.txt holds 2 prompts; lower it"):
        texts("file", path, count=3)
    for other in ('{"annotations": []}', "[1, 2]", "Prompt\tCategory\na cat\tAnimals"):
        Path(path).write_text(other)
        with pytest.raises(InputError, match="JSON or a table, where prompts are expected one a line; take the source"):
            texts("file", path)
    for key, value in (("count", 0), ("each", 0), ("template", "a photo"), ("template", "{} {}"), ("template", "{0}")):
        with pytest.raises(InputError, match=rf"prompts\.{key} = "):
            texts("file", path, **{key: value})


def test_the_section_names_the_sets() -> None:
    sets = prompt_params({"prompts": {"mine": {"source": "file", "path": "x", "each": 2}}})
    assert sets == {"mine": PromptParams(source="file", path="x", each=2)}
    assert prompt_params({}) == {}
    with pytest.raises(InputError, match=r"unknown key prompts\.mine\.paths"):
        prompt_params({"prompts": {"mine": {"source": "file", "paths": "x"}}})
    with pytest.raises(InputError, match="prompts = 'x': must map"):
        prompt_params({"prompts": "x"})


def test_the_digits_have_their_own_sets() -> None:
    assert texts("file", str(REPOSITORY / "prompts" / "digits-classes.txt")) == WORDS
    free = texts("file", str(REPOSITORY / "prompts" / "digits-free.txt"))
    trained = {template.format(word=word, digit=k) for k, word in enumerate(WORDS) for template in PLAIN}
    assert not trained & set(free)
    for label, word in enumerate(WORDS):
        assert sum(bool({word, str(label)} & set(text.replace(",", "").split())) for text in free) == 2, word
