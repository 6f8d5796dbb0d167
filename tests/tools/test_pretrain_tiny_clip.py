import sys

import pytest
import torch
import yaml
from scripts import ROOT, load_script

from mta_clip.data.datasets.shapes import SYNONYMS, all_names, synonym_of
from mta_clip.modeling.clip import build_clip


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/pretrain_tiny_clip.py")


def test_captions(tool):
    assert [c.text for c in tool.captions_of("red disc")] == ["red disc", "red thing", "disc"]
    striped = tool.captions_of("striped blue ring")
    assert [c.text for c in striped[3:]] == ["striped thing", "striped blue thing", "striped ring"]
    plain_ring = tool.captions_of("blue ring")[0]
    assert [c.text for c in striped if c.holds_for(plain_ring)] == ["blue thing", "ring"]
    assert not plain_ring.holds_for(striped[0])  # without a texture word it means plain
    assert not tool.captions_of("grey gravel")[0].holds_for(plain_ring)


def test_rewording_replaces_some_words_by_their_synonyms(tool):
    torch.manual_seed(0)
    texts = {tool.reworded("blue ring") for _ in range(50)}
    assert texts == {"blue ring", "azure ring", "blue hoop", "azure hoop"}
    assert {tool.reworded("dotted thing") for _ in range(50)} == {"dotted thing", "spotted thing"}


@pytest.mark.parametrize("options", [[], ["--synonyms"]], ids=["names", "synonyms"])
def test_no_held_out_class_is_drawn_or_named(tool, options, tmp_path, monkeypatch, capsys):
    drawn, texts = [], set()
    draw, encode_texts = tool.draw, tool.Trainer.encode_texts
    monkeypatch.setattr(tool, "draw", lambda names, *rest, **named: drawn.append(names) or draw(names, *rest, **named))
    monkeypatch.setattr(tool.Trainer, "encode_texts", lambda self, t: texts.update(t) or encode_texts(self, t))
    monkeypatch.setattr(tool.Trainer, "accuracy", lambda *args: 0.0)  # asks for all names, after training
    output = tmp_path / "folder" / "clip.pth"
    monkeypatch.setattr(
        sys,
        "argv",
        ["pretrain_tiny_clip.py", "--output", str(output), "--steps", "3", "--batch", "16", "--crops", "1", *options],
    )
    assert tool.main() == 0
    held_out = yaml.safe_load((ROOT / "configs/_base/zero_shot/shapes.yaml").read_text())["DATASETS"]["UNSEEN_CLASSES"]
    assert len(held_out) == 3 and sorted(drawn[0]) == sorted(set(all_names()) - set(held_out))
    assert texts and not texts & {*held_out, *map(synonym_of, held_out)}
    assert any(word in text.split() for text in texts for word in SYNONYMS.values()) == bool(options)
    assert f"MODEL.CLIP.PRETRAINED {output}" in capsys.readouterr().out

    model = build_clip(name="mta-tiny-vit", pretrained=str(output), quick_gelu=True)
    saved = torch.load(output, weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
