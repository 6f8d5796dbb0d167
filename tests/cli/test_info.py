import json

import pytest
import torch
from noise_config import make_noise_config
from tiny_models import save_tiny_bert

from mta_clip.cli.main import main
from mta_clip.config_loader import load_config


@pytest.fixture
def said(capsys):
    def run(*arguments: str) -> dict[str, str]:
        capsys.readouterr()
        assert main(["info", *arguments]) == 0
        lines = capsys.readouterr().out.splitlines()
        return {line.split()[0]: line for line in lines}

    return run


def test_the_installation_and_all_configs(said):
    rows = said()
    assert torch.__version__.split("+")[0] in rows["torch"]
    assert "shapes/mta_clip_tiny" in rows


def test_a_config(said):
    rows = said("shapes/mask2former_tiny")
    assert "16: red disc" in rows["classes"] and "MTACLIP" in rows["architecture"]
    assert "million" in rows["parameters"]


def test_weights_of_towers_are_not_read(said, tmp_path):
    towers = {"IMAGE_PRETRAINED": "gone.pth", "TEXT_PRETRAINED": "gone.pth", "IMAGE_NAME": "mta-tiny-vit"}
    base = load_config("shapes/mta_clip_tiny", [])
    base.MODEL.CLIP.update(towers)
    (tmp_path / "a.yaml").write_text(base.dump())
    rows = said(str(tmp_path / "a.yaml"))
    assert "million" in rows["parameters"] and "image encoder CLIP mta-tiny-vit" in rows["architecture"]


def test_weights_of_hugging_face_are_not_read(said, tmp_path):
    base = load_config("shapes/mta_clip_tiny", [])
    base.MODEL.CLIP.TEXT_NAME = save_tiny_bert(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "a.yaml").write_text(base.dump())
    assert "million" in said(str(tmp_path / "a.yaml"))["parameters"]


def test_a_run_and_its_checkpoint(said, tmp_path):
    assert main(["train", "--config-file", str(make_noise_config(tmp_path))]) == 0
    folder = tmp_path / "output"
    rows = said(str(folder))
    assert "2: green, red" in rows["classes"]
    assert "model_final.pth" in rows["checkpoints"]
    assert f"mIoU {json.loads((folder / 'metrics.json').read_text())['sem_seg/mIoU']:.2f}" in rows[str(folder)]
    rows = said(str(folder / "model_final.pth"))
    assert "2: green, red" in rows["classes"] and rows["iteration"].endswith(" 4")


def test_a_checkpoint_beside_its_config(said, tmp_path):
    make_noise_config(tmp_path)
    torch.save({"model": {"weight": torch.zeros(2, 3)}}, tmp_path / "model.pth")
    assert "2: green, red" in said(str(tmp_path / "model.pth"))["classes"]


def test_weights_without_config(said, tmp_path):
    torch.save({"model": {"weight": torch.zeros(2, 3)}}, tmp_path / "model.pth")
    rows = said(str(tmp_path / "model.pth"))
    assert "none in this file or beside it" in rows["config"] and "1 tensors" in rows["weights"]


def test_a_misspelt_name(capsys):
    assert main(["info", "camvid/mta_clip_smal"]) == 1
    assert "did you mean camvid/mta_clip_small" in capsys.readouterr().err
