import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from PIL import Image
from scripts import load_script

from mta_clip.config import get_cfg
from mta_clip.modeling.outputs import HeadOutput, LayerPrediction

NAMES = ["dark thing", "bright thing"]


@META_ARCH_REGISTRY.register()
class TwoMaskSegmentor(torch.nn.Module):
    """Query 0 is the dark pixels and chooses context 1, query 1 the bright ones and chooses context 0."""

    def __init__(self, cfg):
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.zeros(()))

    def prompt_learner(self):
        return torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [0.0, 1.0]]).expand(2, 3, 2)  # both contexts say the same

    def preprocess(self, batched_inputs):
        return ImageList.from_tensors([item["image"].float() for item in batched_inputs], 32)

    def predict_masks(self, images):
        bright = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4) - self.threshold
        logits = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]])
        similarity = torch.tensor([[0.1, 0.9], [0.8, 0.2]])[:, None, :, None].expand(2, 1, 2, 3)
        embed = torch.tensor([[[-1.0], [1.0]]])
        return HeadOutput(bright, [LayerPrediction(class_logits=logits, mask_embed=embed, similarity=similarity)])


@pytest.fixture
def command(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for index in range(3):
        picture = np.full((32, 64, 3), 20, np.uint8)
        picture[:, : 16 + 8 * index] = 220
        Image.fromarray(picture).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(picture[..., 0] // 200).save(tmp_path / "labels" / f"{index}.png")
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "TwoMaskSegmentor"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.PROMPT.CLASS_NAMES = NAMES
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    folders = {"image_dir": str(tmp_path / "images"), "label_dir": str(tmp_path / "labels"), "classes": NAMES}
    cfg.DATASETS.FOLDERS = [{"name": "contexts_tool_test", **folders}]
    cfg.DATASETS.TEST = ["contexts_tool_test"]
    cfg.INPUT.MIN_SIZE_TEST = 32
    cfg.DATALOADER.NUM_WORKERS = 0
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.save({"model": {"threshold": torch.tensor(100.0)}}, tmp_path / "model.pth")
    config, weights, out = (str(tmp_path / name) for name in ("config.yaml", "model.pth", "out"))
    return ["--config-file", config, "--weights", weights, "--output", out]


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/analyze_contexts.py")


def test_table_and_pictures(tool, command, tmp_path, capsys):
    tool.main(command)
    table = capsys.readouterr().out
    assert "bright thing" in table and "3 images" in table
    (line,) = [line for line in table.splitlines() if line.startswith("dark thing")]
    assert line.split() == ["dark", "thing", "3", "0.0", "100.0", "0.00", "1.000"]
    assert "between classes: 0.500" in table
    assert (tmp_path / "out" / "contexts.csv").is_file() and (tmp_path / "out" / "contexts.png").is_file()
    assert len(list((tmp_path / "out" / "examples").glob("*.png"))) == 2


def test_a_part_of_the_data(tool, command, capsys):
    tool.main([*command, "--max-images", "2"])
    assert "2 images" in capsys.readouterr().out


def test_a_dataset_is_required(tool, command):
    with pytest.raises(ValueError, match="--dataset"):
        tool.main([*command, "DATASETS.TEST", "()"])
