"""Table 2 and the gallery, from made-up scores."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import files_of
from made_up_prompt_scores import measured, scores, two_sets

from deme_core.data.archive import write_archive
from deme_core.errors import InputError
from deme_core.report.gallery import choose, pick
from deme_core.report.prompt_page import write_prompt_report
from deme_core.report.prompt_tables import PAPER, page2, read_measured, table2


def test_changes_are_paired_and_a_higher_clip_score_is_better() -> None:
    table = table2(two_sets())
    better, worse = table.loc[("coco", "merged")], table.loc[("coco", "min_snr")]
    assert 0 < better["clip_score_change_low"] < 0.3 < better["clip_score_change_high"] < 0.5
    assert better["clip_score_verdict"] == better["frechet_verdict"] == "better than pretrained"
    assert worse["clip_score_verdict"] == worse["frechet_verdict"] == "worse than pretrained"
    assert better["frechet_change"] == pytest.approx(-0.3, abs=0.02)
    assert table.loc[("coco", "pretrained"), "clip_score_verdict"] == "base"
    assert table.loc[("parti", "min_snr"), "clip_score_change"] == 0
    assert table.loc[("parti", "merged"), "clip_score_verdict"] == "no difference shown"
    assert np.isnan(table.loc[("parti", "merged"), "frechet"])


def test_the_papers_numbers_stand_beside_its_own_experiment_alone() -> None:
    table = table2(two_sets())
    ours, papers = page2("Table 2", table, False), page2("Table 2", table, True)
    assert "(gallery.md)" in ours
    assert "13.42 / 29.88" in papers
    assert "— / 29.98" in papers
    assert "29.88" not in ours
    header = next(line for line in ours.splitlines() if line.startswith("| model"))
    assert header.count("Fréchet") == 1  # PartiPrompts have no real images
    assert "- DeMe merged, searched w, coco: CLIP score better than pretrained, Fréchet distance better" in ours
    for line in papers.splitlines():
        if line.startswith("|"):
            assert line.count("|") == papers.splitlines()[2].count("|")


def test_the_papers_numbers_are_its_own() -> None:
    assert set(PAPER) == {"coco", "imagenet", "parti"}
    models = {"pretrained", "snr_plus_one", "truncated_snr", "min_snr", "ensemble", "merged"}
    assert all(set(column) == models for column in PAPER.values())


@pytest.mark.parametrize("change", [{"clip_model": "other"}, {"sampler_steps": 50}, {"images": 3}])
def test_one_table_holds_one_protocol(change: dict[str, object]) -> None:
    (key,) = change
    with pytest.raises(InputError, match=rf"coco: merged was measured with {key} = .*one table holds one protocol"):
        table2({"coco": {"pretrained": measured(), "merged": measured(0.1, **change)}})


def test_measured_files_are_read_or_named(tmp_path: Path) -> None:
    merged = measured(0.1, 3.0)
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "merged.json").write_text(json.dumps(merged.metrics))
    with pytest.raises(
        InputError, match=r"merged\.csv: no such file; `dvc repro evaluate_prompts@merged\+coco` writes"
    ):
        read_measured(tmp_path, tmp_path, ["coco"], ["merged"])
    merged.scores.to_csv(tmp_path / "coco" / "merged.csv", index=False)
    found = read_measured(tmp_path, tmp_path, ["coco"], ["merged"])["coco"]["merged"]
    assert found.blocks == merged.blocks
    np.testing.assert_allclose(found.prompts, merged.prompts)


# The gallery


def test_prompts_are_chosen_by_position_and_by_the_greatest_changes() -> None:
    before, after = scores(), scores()
    after.loc[7, "clip_score"] += 5
    after.loc[3, "clip_score"] -= 5
    after.loc[40, "clip_score"] += 50  # the second image of prompt 10
    after.loc[10, "clip_score"] += 1  # and its first
    chosen = list(choose(before, after, 5).values())
    assert chosen == [[0, 6, 12, 18, 24], [40, 7], [3]]  # no change is no gain, and a prompt is shown once
    assert list(choose(before, after, 31).values())[1] == [40, 7, 10]
    with pytest.raises(InputError, match="images of different prompts"):
        choose(before, after.assign(text="other"))


def test_images_are_picked_out_of_a_stream() -> None:
    stream = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    found = pick(stream.split(4), [9, 0, 5])
    assert {k: int(image.item()) for k, image in found.items()} == {0: 0, 5: 5, 9: 9}


def test_the_report_shows_every_set_and_has_the_same_bytes_again(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    write_archive(tmp_path / "samples", 0, pixels)
    sets = {"coco": two_sets()["coco"]}
    samples = {"coco": {"pretrained": tmp_path / "samples", "merged": tmp_path / "samples"}}
    for run in ("first", "second"):
        write_prompt_report(sets, samples, "Table 2", False, tmp_path / run)
    assert files_of(tmp_path / "first") == files_of(tmp_path / "second")
    assert set(files_of(tmp_path / "first")) == {
        "table2.md", "table2.csv", "table2.txt", "gallery.md", "coco-1.png", "coco-2.png", "coco-3.png",
    }  # fmt: skip
    text = (tmp_path / "first" / "gallery.md").read_text()
    assert "![The greatest gains](coco-2.png)" in text
    assert "prompt 0 \\| $x$" in text
