import pytest
import torch
from detectron2.modeling import build_model
from tiny_models import batch, save_tiny_bert, tiny_config
from toy_training import ToySegmentor, toy_cfg, train_toy

from mta_clip.checkpoint import CheckpointError, SegmentationCheckpointer
from mta_clip.config import get_cfg
from mta_clip.data import with_classes
from mta_clip.engine.trained_model import (
    build_for_evaluation,
    load_for_evaluation,
    saved_config,
    with_trained_classes,
)
from mta_clip.modeling.clip import build_clip


def evaluation_cfg(folder, weights: str = ""):
    cfg = toy_cfg(folder).clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    return cfg


def test_named_weights_are_loaded(tmp_path):
    trained = train_toy(tmp_path, MAX_ITER=2)
    cfg = evaluation_cfg(tmp_path / "elsewhere", str(tmp_path / "model_final.pth"))
    model = ToySegmentor(cfg)
    load_for_evaluation(cfg, model)
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())


def test_no_weights_is_an_error(tmp_path):
    cfg = evaluation_cfg(tmp_path)
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS is empty: name a trained model"):
        load_for_evaluation(cfg, ToySegmentor(cfg))


def test_missing_file_is_an_error(tmp_path):
    cfg = evaluation_cfg(tmp_path, str(tmp_path / "nothing.pth"))
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        load_for_evaluation(cfg, ToySegmentor(cfg))


def test_lacking_trained_parameters_is_an_error_but_frozen_ones_may_lack(tmp_path):
    cfg = evaluation_cfg(tmp_path, str(tmp_path / "weights.pth"))
    model = ToySegmentor(cfg)
    weights = model.state_dict()
    del weights["norm.weight"]
    torch.save({"model": weights}, cfg.MODEL.WEIGHTS)
    with pytest.raises(CheckpointError, match=r"lacks 1 trained parameters of the model: norm\.weight"):
        load_for_evaluation(cfg, model)
    model.norm.requires_grad_(False)
    assert load_for_evaluation(cfg, model) == ["norm.weight"]


def test_classes_travel_with_the_checkpoint(tmp_path):
    cfg = evaluation_cfg(tmp_path)
    cfg.MODEL.PROMPT.CLASS_NAMES, cfg.DATASETS.UNSEEN_CLASSES = ["wall", "bed"], ["bed"]
    SegmentationCheckpointer(ToySegmentor(cfg), str(tmp_path), config=with_classes(cfg).dump()).save("model_final")
    other = get_cfg()
    other.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    other.DATASETS.FOLDERS = [{"name": "gone", "image_dir": "gone", "label_dir": "gone", "classes": "gone.txt"}]
    other.DATASETS.TRAIN = ("gone",)
    carried = with_trained_classes(other)
    assert carried.MODEL.PROMPT.CLASS_NAMES == ["wall", "bed"] and carried.DATASETS.UNSEEN_CLASSES == ["bed"]
    assert carried.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 2 and carried.DATASETS.TRAIN == ("gone",)


def test_a_checkpoint_without_config_leaves_the_classes_to_the_dataset(tmp_path):
    cfg = get_cfg()
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    torch.save({"model": {"a": torch.zeros(1)}}, cfg.MODEL.WEIGHTS)
    cfg.DATASETS.TRAIN = ("camvid_sem_seg_train",)
    assert saved_config(cfg.MODEL.WEIGHTS) is None
    assert len(with_trained_classes(cfg).MODEL.PROMPT.CLASS_NAMES) == 11
    cfg.MODEL.PROMPT.CLASS_NAMES = ["a", "b"]
    assert with_trained_classes(cfg).MODEL.SEM_SEG_HEAD.NUM_CLASSES == 2


def test_a_saved_config_runs_no_code(tmp_path):
    path = str(tmp_path / "weights.pth")
    torch.save({"model": {}, "config": "MODEL: !!python/object/apply:os.getcwd []"}, path)
    with pytest.raises(ValueError, match=r"the config in .*weights\.pth, line 1: the tag !!python/object/apply"):
        saved_config(path)


TEXT_TOWER = "prompt_learner.text_encoder.tower."


@pytest.fixture
def clip_file(tmp_path):
    """CLIP weights for the tiny architecture."""
    path = tmp_path / "clip.pth"
    torch.save(build_clip(name="mta-tiny").state_dict(), path)
    return path


@pytest.fixture
def trained(clip_file, tmp_path):
    """A model over those CLIP weights, and the config to evaluate its checkpoint with."""
    cfg = tiny_config("MODEL.CLIP.PRETRAINED", str(clip_file), "OUTPUT_DIR", str(tmp_path))
    model = build_model(cfg).eval()
    SegmentationCheckpointer(model, str(tmp_path)).save("trained")
    cfg.MODEL.WEIGHTS = str(tmp_path / "trained.pth")
    cfg.freeze()
    return model, cfg


def assert_same_scores(model, other):
    sample = batch(1)
    assert torch.equal(model(sample)[0]["sem_seg"], other.eval()(sample)[0]["sem_seg"])


def test_own_checkpoints_need_no_clip_weights(trained, clip_file):
    model, cfg = trained
    clip_file.unlink()
    assert_same_scores(model, build_for_evaluation(cfg))


def test_a_text_tower_of_its_own_is_read_only_if_the_checkpoint_lacks_it(tmp_path):
    text_file = tmp_path / "text.pth"
    torch.save(build_clip(name="mta-tiny-vit").state_dict(), text_file)
    cfg = tiny_config("MODEL.CLIP.TEXT_NAME", "mta-tiny-vit", "MODEL.CLIP.TEXT_PRETRAINED", str(text_file))
    cfg.MODEL.WEIGHTS = str(tmp_path / "trained.pth")
    model = build_model(cfg).eval()
    torch.save({"model": without_the_text_tower(model.state_dict())}, cfg.MODEL.WEIGHTS)
    assert_same_scores(model, build_for_evaluation(cfg))
    text_file.unlink()
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    assert_same_scores(model, build_for_evaluation(cfg))


def test_a_text_tower_of_hugging_face_is_read_only_if_the_checkpoint_lacks_it(tmp_path):
    cfg = tiny_config("MODEL.CLIP.TEXT_NAME", save_tiny_bert(tmp_path), "MODEL.WEIGHTS", str(tmp_path / "trained.pth"))
    model = build_model(cfg).eval()
    torch.save({"model": without_the_text_tower(model.state_dict())}, cfg.MODEL.WEIGHTS)
    assert_same_scores(model, build_for_evaluation(cfg))
    (tmp_path / "model.safetensors").unlink()
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    assert_same_scores(model, build_for_evaluation(cfg))


def test_an_image_tower_of_its_own_is_read_only_if_the_checkpoint_lacks_it(clip_file, tmp_path):
    """Only what is frozen may lack: here the whole encoder."""
    cfg = tiny_config("MODEL.CLIP.IMAGE_PRETRAINED", str(clip_file), "MODEL.BACKBONE.FREEZE_AT", 5)
    cfg.MODEL.WEIGHTS = str(tmp_path / "trained.pth")
    model = build_model(cfg).eval()
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("backbone.")}
    torch.save({"model": weights}, cfg.MODEL.WEIGHTS)
    assert_same_scores(model, build_for_evaluation(cfg))


def without_the_text_tower(weights):
    return {name: value for name, value in weights.items() if not name.startswith(TEXT_TOWER)}


def with_short_text_positions(weights):
    name = TEXT_TOWER + "positional_embedding"
    return weights | {name: weights[name][:12]}


@pytest.mark.parametrize("reduce", [without_the_text_tower, with_short_text_positions])
def test_frozen_weights_that_a_checkpoint_lacks_come_from_clip(trained, clip_file, reduce):
    model, cfg = trained
    torch.save(reduce(model.state_dict()), cfg.MODEL.WEIGHTS)
    whole = build_for_evaluation(cfg)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in model.state_dict().items())
    assert_same_scores(model, whole)

    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.CLIP.PRETRAINED = ""
    with pytest.raises(CheckpointError, match=r"positional_embedding.*Set MODEL\.CLIP\.PRETRAINED"):
        build_for_evaluation(cfg)
