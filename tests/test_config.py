import re

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_cfg
from scripts import ROOT

from mta_clip.config import add_mta_clip_config, get_cfg, value_of


def keys_of(node: CfgNode, prefix: str = "") -> dict:
    found = {}
    for name, value in node.items():
        found |= keys_of(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else {f"{prefix}{name}": value}
    return found


def our_keys() -> set[str]:
    return keys_of(get_cfg()).keys() - keys_of(detectron2_cfg()).keys()


def test_detectron2s_keys_stay():
    assert keys_of(detectron2_cfg()).keys() < keys_of(get_cfg()).keys()


def test_every_call_makes_a_config_of_its_own():
    first, second = get_cfg(), get_cfg()
    first.MODEL.PROMPT.CLASS_NAMES.append("sky")
    assert second.MODEL.PROMPT.CLASS_NAMES == []


def test_keys_can_be_added_to_an_existing_config():
    cfg = detectron2_cfg()
    cfg.SOLVER.MAX_ITER = 7
    add_mta_clip_config(cfg)
    assert keys_of(cfg) == keys_of(get_cfg()) | {"SOLVER.MAX_ITER": 7}


def test_values_are_found_by_their_keys():
    assert value_of(get_cfg(), "MODEL.CLIP.NAME") == "RN50"
    with pytest.raises(KeyError, match="NAMES"):
        value_of(get_cfg(), "MODEL.CLIP.NAMES")


@pytest.mark.parametrize("available", [True, False])
def test_the_device_is_the_gpu_if_there_is_one(available, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert ("cuda" if available else "cpu") == get_cfg().MODEL.DEVICE


def test_figures_of_the_paper():
    model = get_cfg().MODEL
    assert (model.PROMPT.NUM_CONTEXTS, model.PROMPT.CONTEXT_LENGTH, model.PROMPT.NO_OBJECT_NAME) == (3, 8, "none")
    loss = model.MASK_FORMER
    assert (loss.CLASS_WEIGHT, loss.MASK_WEIGHT, loss.DICE_WEIGHT, loss.NO_OBJECT_WEIGHT) == (2, 5, 5, 0.1)


def test_a_yaml_dump_comes_back():
    cfg, other = get_cfg(), get_cfg()
    other.merge_from_other_cfg(CfgNode.load_cfg(cfg.dump()))
    values = keys_of(other)
    assert {key: value for key, value in keys_of(cfg).items() if key in our_keys() and values[key] != value} == {}


def test_every_key_is_read_somewhere():
    """A key that nothing reads has no effect, whatever a config says."""
    folders = [path for path in (ROOT / "mta_clip").rglob("*.py") if path.name != "config.py"]
    code = "\n".join(path.read_text() for path in folders)
    assert [key for key in sorted(our_keys()) if not re.search(rf"\.{key.rpartition('.')[2]}\b", code)] == []
