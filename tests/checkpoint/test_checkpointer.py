"""Saving and loading: round trips of training state, strict shapes, named omissions, Detectron2's backbones."""

import logging
import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone
from torch import nn

from mta_clip.checkpoint import CheckpointError, SegmentationCheckpointer
from mta_clip.config import get_cfg


class Model(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.encoder = nn.Linear(4, 5)
        self.class_embed = nn.Linear(5, num_classes)


def same_state(first, second):
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def trained(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    model.class_embed(model.encoder(torch.ones(2, 4))).sum().backward()
    optimizer.step()
    scheduler.step()
    return optimizer, scheduler


def test_training_state_comes_back(tmp_path):
    model = Model()
    optimizer, scheduler = trained(model)
    generator = torch.get_rng_state()
    saver = SegmentationCheckpointer(model, str(tmp_path), optimizer=optimizer, scheduler=scheduler)
    saver.save("model_0000009", iteration=9, rng={"torch": generator, "python": (3, (1, 2), None)})
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000009.pth"]
    torch.load(tmp_path / "model_0000009.pth", weights_only=True)

    other = Model()
    other_optimizer, other_scheduler = trained(other)
    loader = SegmentationCheckpointer(other, str(tmp_path), optimizer=other_optimizer, scheduler=other_scheduler)
    rest = loader.resume_or_load("", resume=True)
    assert same_state(model, other)
    assert rest["iteration"] == 9 and torch.equal(rest["rng"]["torch"], generator)
    assert set(rest) == {"iteration", "rng"}
    assert other_scheduler.last_epoch == scheduler.last_epoch
    moments = [optim.state_dict()["state"][0]["exp_avg"] for optim in (optimizer, other_optimizer)]
    assert torch.equal(*moments)


@pytest.mark.parametrize(
    ("extra", "place"),
    [
        ({"best": np.float64(0.5)}, r"checkpoint\['best'\] is a numpy\.float64"),
        ({"rng": {"numpy": ("MT19937", np.zeros(3))}}, r"checkpoint\['rng'\]\['numpy'\]\[1\] is a numpy\.ndarray"),
        ({"hook": [logging.getLogger()]}, r"checkpoint\['hook'\]\[0\] is a logging"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, extra, place):
    with pytest.raises(TypeError, match=place):
        SegmentationCheckpointer(Model(), str(tmp_path)).save("model", **extra)
    assert not list(tmp_path.iterdir())


def test_interrupted_save_keeps_the_old_file(tmp_path, monkeypatch):
    saver = SegmentationCheckpointer(Model(), str(tmp_path))
    saver.save("model", iteration=1)

    def half_write(data, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half_write)
    with pytest.raises(KeyboardInterrupt):
        saver.save("model", iteration=2)
    assert saver.load(str(tmp_path / "model.pth"))["iteration"] == 1
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model.pth"]


def weights_file(path, model):
    state = model.state_dict()
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    elif path.suffix == ".pkl":
        arrays = {name: value.numpy() for name, value in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}))
    else:
        torch.save({"model": state} if "wrapped" in path.name else state, path)
    return str(path)


@pytest.mark.parametrize("name", ["a.safetensors", "a_wrapped.pth", "a.pth", "a.pkl"])
def test_weights_of_every_format(tmp_path, name):
    source, target = Model(), Model()
    SegmentationCheckpointer(target).load(weights_file(tmp_path / name, source))
    assert same_state(source, target)


def test_another_number_of_classes_is_an_error_naming_both_shapes(tmp_path):
    path = weights_file(tmp_path / "a.safetensors", Model(3))
    target = Model(4)
    before = target.encoder.weight.clone()
    with pytest.raises(CheckpointError, match=r"class_embed\.weight: file \(3, 5\), model \(4, 5\)[\s\S]*WEIGHTS_SKIP"):
        SegmentationCheckpointer(target).load(path)
    assert torch.equal(target.encoder.weight, before)  # nothing was loaded by half


def test_named_parameters_are_left_out(tmp_path, caplog):
    source, target = Model(3), Model(4)
    before = target.class_embed.weight.clone()
    path = weights_file(tmp_path / "a.safetensors", source)
    with caplog.at_level(logging.WARNING):
        SegmentationCheckpointer(target, skip=["*class_embed*"]).resume_or_load(path, resume=False)
    assert torch.equal(target.encoder.weight, source.encoder.weight)
    assert torch.equal(target.class_embed.weight, before)
    assert "class_embed.weight" in caplog.text


def test_a_resumed_run_leaves_nothing_out(tmp_path):
    source, target = Model(), Model()
    SegmentationCheckpointer(source, str(tmp_path)).save("model")
    loader = SegmentationCheckpointer(target, str(tmp_path), skip=["*class_embed*"])
    loader.resume_or_load("")
    assert same_state(source, target)
    assert loader.skip == ("*class_embed*",)


def test_a_new_run_starts_from_its_weights_and_not_from_a_checkpoint(tmp_path):
    source, target = Model(), Model()
    SegmentationCheckpointer(Model(), str(tmp_path)).save("model")
    weights = weights_file(tmp_path / "a.pth", source)
    SegmentationCheckpointer(target, str(tmp_path)).resume_or_load(weights, resume=False)
    assert same_state(source, target)


def test_missing_and_unexpected_names_are_logged(tmp_path, caplog):
    path = tmp_path / "a.pth"
    torch.save({"encoder.weight": torch.ones(5, 4), "neck.weight": torch.ones(1)}, path)
    with caplog.at_level(logging.WARNING):
        SegmentationCheckpointer(Model()).load(str(path))
    assert "class_embed" in caplog.text and "neck" in caplog.text
    assert {record.name for record in caplog.records} == {"mta_clip.checkpoint.checkpointer"}


def test_weights_of_a_wrapped_model_load(tmp_path):
    source, target = Model(), Model()
    torch.save({f"module.{name}": value for name, value in source.state_dict().items()}, tmp_path / "a.pth")
    SegmentationCheckpointer(target).load(str(tmp_path / "a.pth"))
    assert same_state(source, target)


class Scaled(nn.Module):
    """The model's temperature, where this version has it ("prompt_learner") or where older ones had it."""

    def __init__(self, *places):
        super().__init__()
        for place in places:
            self.get_submodule(place.rpartition(".")[0]).add_module(place.rpartition(".")[2], nn.Module())
            self.get_submodule(place).logit_scale = nn.Parameter(torch.zeros(()))


NEW, OLD = ("prompt_learner",), ("criterion", "criterion.similarity_loss")
OLD_NAME = "criterion.similarity_loss.logit_scale"


@pytest.mark.parametrize("prefix", ["", "module."])
def test_renamed_parameters_load_from_older_files(tmp_path, caplog, prefix):
    path, model = tmp_path / "old.pth", Scaled(*NEW)
    torch.save({"model": {f"{prefix}{OLD_NAME}": torch.tensor(3.0)}}, path)
    with caplog.at_level(logging.INFO):
        SegmentationCheckpointer(model).load(str(path))
    assert model.prompt_learner.logit_scale == 3
    assert [record.levelname for record in caplog.records if f"{OLD_NAME} is called" in record.message] == ["INFO"]


def test_a_renamed_parameter_is_skipped_by_its_new_name(tmp_path):
    path, model = tmp_path / "old.pth", Scaled(*NEW)
    torch.save({"model": {OLD_NAME: torch.tensor(3.0)}}, path)
    SegmentationCheckpointer(model, skip=["prompt_learner.*"]).resume_or_load(str(path), resume=False)
    assert model.prompt_learner.logit_scale == 0


def test_only_parameters_that_the_model_has_not_are_renamed(tmp_path, caplog):
    path, both, old = tmp_path / "new.pth", Scaled(*NEW, *OLD), Scaled(*OLD)
    torch.save({"model": {OLD_NAME: torch.tensor(3.0)}}, path)
    for model in (both, old):
        SegmentationCheckpointer(model).load(str(path))
        assert model.get_parameter(OLD_NAME) == 3
    assert both.prompt_learner.logit_scale == 0
    torch.save({"model": {OLD_NAME: torch.tensor(3.0), "prompt_learner.logit_scale": torch.tensor(4.0)}}, path)
    new = Scaled(*NEW)
    SegmentationCheckpointer(new).load(str(path))
    assert new.prompt_learner.logit_scale == 4
    assert "is called" not in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"conv.weight": torch.ones(1)}, r"none of its 1 names fits .*'conv\.weight'"),
        ({"state_dict": {"backbone.conv1.weight": torch.ones(1)}, "meta": {}}, "--source mta-clip"),
        ({"model": {"sem_seg_head.predictor.class_embed.weight": torch.ones(1)}}, "--source mask2former"),
        ({"model": {"encoder.weight": "text"}}, "'encoder.weight' is a str"),
        ({"model": {}}, "no weights"),
        ([torch.ones(1)], "holds a list"),
    ],
)
def test_foreign_files_say_what_to_do(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        SegmentationCheckpointer(Model()).load(str(tmp_path / "a.pth"))


def test_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"/nowhere/a\.pth"):
        SegmentationCheckpointer(Model()).load("/nowhere/a.pth")


def test_code_in_a_pkl_does_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'it_ran'}",)

    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"model": {"encoder.weight": Trap()}, "__author__": "x"}))
    with pytest.raises(CheckpointError, match=r"names (posix|nt)\.system"):
        SegmentationCheckpointer(Model()).load(str(path))
    assert not (tmp_path / "it_ran").exists()


def test_fewer_rows_of_the_text_position_table(tmp_path):
    """DenseCLIP and MTA-CLIP keep 13 of CLIP's 77 rows; the others stay CLIP's."""
    model = nn.Module()
    model.text_encoder = nn.Module()
    model.text_encoder.tower = nn.Module()
    model.text_encoder.tower.positional_embedding = nn.Parameter(torch.zeros(5, 2))
    name = "text_encoder.tower.positional_embedding"
    torch.save({name: torch.ones(3, 2)}, tmp_path / "a.pth")
    SegmentationCheckpointer(model).load(str(tmp_path / "a.pth"))
    assert model.text_encoder.tower.positional_embedding.sum(1).tolist() == [2, 2, 2, 0, 0]
    for shape in ((6, 2), (3, 1)):
        torch.save({name: torch.ones(shape)}, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match="positional_embedding: file"):
            SegmentationCheckpointer(model).load(str(tmp_path / "a.pth"))


@pytest.mark.parametrize("author", ["torchvision", "Caffe2"])
def test_backbones_of_detectron2_load_by_its_heuristics(tmp_path, author):
    """R-50.pkl: names as Detectron2's scripts leave them, without `backbone.`; Caffe2: its own names, no wrapper."""
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res5"]
    source, target = nn.Module(), nn.Module()
    for module in (source, target):
        module.backbone = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    arrays = {
        name.removeprefix("backbone."): np.random.default_rng(0).normal(size=value.shape).astype(np.float32)
        for name, value in source.state_dict().items()
    }
    if author == "Caffe2":  # which has no running statistics
        arrays = {name: value for name, value in arrays.items() if "running" not in name}
        content = {caffe2_name(name): value for name, value in arrays.items()}
        content["conv1_w_momentum"] = np.ones(1, np.float32)
    else:
        content = {"model": arrays, "__author__": author, "matching_heuristics": True}
    path = tmp_path / "R-18.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    SegmentationCheckpointer(target).load(str(path))
    for name, value in arrays.items():
        np.testing.assert_array_equal(target.state_dict()[f"backbone.{name}"], value)


def caffe2_name(name):
    """res2.0.conv1.weight -> res2_0_branch2a_w, and so on, as Caffe2's zoo writes them."""
    name = name.replace("stem.conv1.norm.", "res_conv1_bn_").replace("stem.conv1.weight", "conv1_w")
    for i, branch in ((1, "branch2a"), (2, "branch2b"), (3, "branch2c")):
        name = name.replace(f".conv{i}.norm.", f"_{branch}_bn_").replace(f".conv{i}.weight", f"_{branch}_w")
    name = name.replace(".shortcut.norm.", "_branch1_bn_").replace(".shortcut.weight", "_branch1_w")
    return name.replace("bn_weight", "bn_s").replace("bn_bias", "bn_b").replace(".", "_")


def test_without_a_folder_nothing_is_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SegmentationCheckpointer(Model()).save("model")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_nan_are_refused(tmp_path):
    model = nn.Linear(2, 2)
    model.bias.data[0] = float("nan")
    SegmentationCheckpointer(model, str(tmp_path)).save_weights("a")
    with pytest.raises(CheckpointError, match=r"a\.pth: these weights are NaN: bias\. .*earlier checkpoint"):
        SegmentationCheckpointer(nn.Linear(2, 2)).load(str(tmp_path / "a.pth"))
