"""Released files of every source, synthetic but with the real names and wrappers, converted into our models."""

import pickle

import numpy as np
import pytest
import torch
import torchvision
from detectron2.modeling import build_model
from released_weights import (
    BASELINE,
    NAMES,
    SWIN_BASELINE,
    mask2former_state,
    official_names,
    official_state,
    swin_names,
    tiny_config,
)

from mta_clip.checkpoint import CheckpointError, SegmentationCheckpointer
from mta_clip.checkpoint.convert import convert_checkpoint, fit_to_model
from mta_clip.checkpoint.sources import SOURCES
from mta_clip.checkpoint.writers import save_weights
from mta_clip.modeling.clip import build_clip


def perturbed(model):
    """Away from its initialisation, where text hardly matters and norms are trivial."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def assert_equal_outputs(first, second):
    image = {"image": torch.randint(0, 256, (3, 64, 96))}
    with torch.no_grad():
        outputs = [model.eval()([image])[0]["sem_seg"] for model in (first, second)]
    assert torch.equal(*outputs)
    assert outputs[0].std() > 0


def convert_into(model, path, source, tmp_path, suffix=".safetensors"):
    """The way of a user: convert, check against the model, save, load with the checkpointer."""
    conversion = convert_checkpoint(path, source)
    fit_to_model(conversion, model.state_dict())
    save_weights(conversion.weights, tmp_path / f"ours{suffix}")
    SegmentationCheckpointer(model).load(str(tmp_path / f"ours{suffix}"))
    return conversion


def mask2former_arrays(model, backbone_names):
    state = mask2former_state(model, [f"backbone.{name}" for name in backbone_names])
    return {name: value.numpy() for name, value in state.items()}


def mask2former_file(path, model, *, legacy=False, **extra):
    state = mask2former_state(model)
    if legacy:  # before version 2 of its head
        state = {name.replace("head.pixel_decoder.", "head."): value for name, value in state.items()}
        state = {name.replace("query_feat", "static_query"): value for name, value in state.items()}
    arrays = {name: value.numpy() for name, value in state.items()}
    content = {"model": arrays, "__author__": "third_party", "matching_heuristics": True, **extra}
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


@pytest.mark.parametrize("legacy", [False, True], ids=["current", "legacy"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_mask2former(tmp_path, legacy, suffix):
    model, target = perturbed(build_model(tiny_config(*BASELINE))), build_model(tiny_config(*BASELINE))
    path = mask2former_file(tmp_path / "model_final.pkl", model, legacy=legacy)
    conversion = convert_into(target, path, "mask2former", tmp_path, suffix)
    assert conversion.missing == []
    assert_equal_outputs(model, target)
    assert conversion.dropped == {"__author__": "not a weight", "matching_heuristics": "not a weight"}


def test_mask2former_with_swin(tmp_path):
    model, target = perturbed(build_model(tiny_config(*SWIN_BASELINE))), build_model(tiny_config(*SWIN_BASELINE))
    names = list(swin_names(width=16, depths=(2, 2, 3, 2), heads=(1, 2, 4, 8), window=3))
    path = tmp_path / "model_final_swin.pkl"
    path.write_bytes(pickle.dumps({"model": mask2former_arrays(model, names)}, protocol=2))
    conversion = convert_into(target, path, "mask2former", tmp_path)
    assert conversion.missing == []
    assert_equal_outputs(model, target)
    assert len(conversion.dropped) == 9 and all("relative_position_index" in name for name in conversion.dropped)


def test_mask2former_with_another_swin_is_refused(tmp_path):
    model = build_model(tiny_config(*SWIN_BASELINE))
    arrays = mask2former_arrays(model, swin_names(width=16, depths=(2, 2, 3, 2), heads=(1, 2, 4, 8), window=3))
    arrays["backbone.layers.2.blocks.3.norm1.weight"] = np.ones(64, np.float32)
    arrays["backbone.norm1.bias"] = np.ones(33, np.float32)
    (tmp_path / "swin.pkl").write_bytes(pickle.dumps({"model": arrays}, protocol=2))
    with pytest.raises(CheckpointError, match="2 parameters differ") as error:
        fit_to_model(convert_checkpoint(tmp_path / "swin.pkl", "mask2former"), model.state_dict())
    assert "backbone.tower.norms.1.bias: file (33,), model (32,)" in str(error.value)


def test_torchvision_resnet(tmp_path):
    official = perturbed(torchvision.models.resnet18())
    torch.save(official.state_dict(), tmp_path / "resnet18.pth")
    target = build_model(tiny_config(*BASELINE))
    conversion = convert_into(target, tmp_path / "resnet18.pth", "torchvision-resnet", tmp_path)
    assert not any(name.startswith("backbone.") for name in conversion.missing)
    assert {"fc.weight", "bn1.num_batches_tracked"} <= set(conversion.dropped)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = target.backbone.eval()(image)
        expected = official.maxpool(official.relu(official.bn1(official.conv1(image))))
        for layer in range(1, 5):
            expected = official.get_submodule(f"layer{layer}")(expected)
            torch.testing.assert_close(maps[f"res{layer + 1}"], expected, rtol=1e-4, atol=1e-4)


def mmseg_file(path, state, **extra):
    torch.save({"meta": {"iter": 160000, "classes": tuple(NAMES)}, "state_dict": state, **extra}, path)
    return path


def tower_names(model):
    """Official names of the towers and contexts, from the parameters of open_clip's."""
    own = list(model.state_dict())
    names = [name.replace("backbone.tower.visual.", "backbone.") for name in own if name.startswith("backbone.")]
    text = "prompt_learner.text_encoder.tower."
    return names + [name.replace(text, "text_encoder.") for name in own if name.startswith(text)] + ["contexts"]


def mta_clip_state(model):
    names = official_names("mta_head_a.npz", "decode_head.") + tower_names(model) + ["gamma"]
    names += ["backbone.attnpool.positional_embedding", "backbone.attnpool.q_proj.weight"]
    state = official_state(model, "mta-clip", names)
    state["text_encoder.positional_embedding"] = state["text_encoder.positional_embedding"][:13]
    return state


def test_mta_clip(tmp_path):
    model, target = perturbed(build_model(tiny_config())), build_model(tiny_config())
    path = mmseg_file(tmp_path / "iter_160000.pth", mta_clip_state(model), optimizer={"state": {}, "param_groups": []})
    conversion = convert_into(target, path, "mta-clip", tmp_path)
    assert [name for name in conversion.missing if not name.startswith("criterion.")] == []
    assert_equal_outputs(model, target)
    unused = {"gamma", "decode_head.visual_emb_proj.weight", "decode_head.lang_embed.bias"}
    pool = {"backbone.attnpool.positional_embedding", "backbone.attnpool.q_proj.weight"}
    assert unused | pool | {"meta", "optimizer"} <= set(conversion.dropped)
    assert "never used" in conversion.dropped["gamma"]


def test_denseclip_resnet_gives_the_towers_and_contexts(tmp_path):
    overrides = ("MODEL.PROMPT.NUM_CONTEXTS", 1)
    model, target = perturbed(build_model(tiny_config(*overrides))), build_model(tiny_config(*overrides))
    names = [*tower_names(model), "gamma", "context_decoder.memory_proj.0.weight", "neck.lateral_convs.0.conv.weight"]
    names += ["decode_head.conv_seg.weight", "identity_head.conv_seg.weight", "backbone.attnpool.c_proj.bias"]
    path = mmseg_file(tmp_path / "denseclip.pth", official_state(model, "denseclip", names))
    conversion = convert_into(target, path, "denseclip", tmp_path)
    assert {name.partition(".")[0] for name in conversion.missing} == {"sem_seg_head", "criterion"}
    image = torch.rand(1, 3, 64, 64)
    target.eval()
    for first, second in zip(model.backbone(image).values(), target.backbone(image).values(), strict=True):
        assert torch.equal(first, second)
    assert torch.equal(model.prompt_learner(), target.prompt_learner())


def test_denseclip_vit_adds_its_class_embedding_twice(tmp_path):
    visual = build_clip(name="mta-tiny-vit").visual.state_dict()
    state = {f"backbone.{name}": value for name, value in visual.items()} | {"backbone.fpn1.0.weight": torch.rand(2)}
    weights = convert_checkpoint(mmseg_file(tmp_path / "vit.pth", state), "denseclip").weights
    table = visual["positional_embedding"]
    table[0] += visual["class_embedding"]
    torch.testing.assert_close(weights["backbone.tower.visual.positional_embedding"], table, atol=0, rtol=0)
    assert "backbone.tower.visual.proj" not in weights


def test_tagclip_names_are_all_known(tmp_path):
    names = official_names("tag_e2e_a.npz", "")
    state = {name: torch.rand(1) for name in [*names, "text_encoder.ln_final.bias"]}
    conversion = convert_checkpoint(mmseg_file(tmp_path / "tagclip.pth", state), "tagclip")
    assert len(conversion.weights) == len(names)
    assert set(conversion.dropped) == {"meta", "text_encoder.ln_final.bias"}


@pytest.mark.filterwarnings("ignore")  # torch.jit announces its end
@pytest.mark.parametrize("name", ["mta-tiny", "mta-tiny-vit"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_openai_torchscript_becomes_clip_weights(tmp_path, name, suffix, monkeypatch):
    source = build_clip(name=name, quick_gelu=True).eval()
    size = source.visual.image_size
    for setting, value in (("input_resolution", 96), ("context_length", 32), ("vocab_size", 49408)):
        source.__dict__.pop(setting, None)  # open_clip keeps it as a number
        source.register_buffer(setting, torch.tensor(value))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.copy_(parameter.half())
    inputs = torch.rand(1, 3, *(size if isinstance(size, tuple) else (size, size))), torch.ones(1, 32, dtype=torch.long)
    torch.jit.save(torch.jit.trace(source, inputs, check_trace=False), tmp_path / "clip.pt")
    monkeypatch.setattr(torch.jit, "load", None)
    conversion = convert_checkpoint(tmp_path / "clip.pt", "openai-clip")
    assert {"input_resolution", "context_length", "vocab_size"} <= set(conversion.dropped)
    save_weights(conversion.weights, tmp_path / f"clip{suffix}", wrapped=False)
    target = build_clip(name=name, quick_gelu=True, pretrained=str(tmp_path / f"clip{suffix}"))
    for key, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[key]), key
        assert value.dtype != torch.float16


def test_half_precision_becomes_float32_and_counters_stay(tmp_path):
    state = {
        "backbone.conv1.weight": torch.ones(2, dtype=torch.float16),
        "backbone.bn1.num_batches_tracked": torch.tensor(3),
    }
    weights = convert_checkpoint(mmseg_file(tmp_path / "a.pth", state), "mta-clip").weights
    assert [value.dtype for value in weights.values()] == [torch.float32, torch.int64]


def test_shapes_that_do_not_fit_are_listed(tmp_path):
    model = build_model(tiny_config(*BASELINE))
    path = mask2former_file(tmp_path / "model.pkl", model)
    other = build_model(tiny_config(*BASELINE, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4, "MODEL.MASK_FORMER.DEC_LAYERS", 4))
    conversion = convert_checkpoint(path, "mask2former")
    with pytest.raises(CheckpointError) as error:
        fit_to_model(conversion, other.state_dict())
    message = str(error.value)
    assert "sem_seg_head.transformer_decoder.class_embed.weight: file (6, 32), model (5, 32)" in message
    assert "criterion.empty_weight: file (6,), model (5,)" in message
    assert "sem_seg_head.transformer_decoder.layers.3.linear1.weight: file (96, 32), not in the model" in message
    assert "backbone" not in message
    kept = convert_checkpoint(path, "mask2former", drop=["*class_embed*", "criterion.*", "*_layers.3.*"])
    fit_to_model(kept, other.state_dict())
    assert "sem_seg_head.transformer_decoder.class_embed.bias" in kept.missing
    assert kept.dropped["criterion.empty_weight"] == "asked for on the command line"


@pytest.mark.parametrize("source", SOURCES)
def test_unknown_names_are_listed(tmp_path, source):
    path = tmp_path / "a.pth"
    torch.save({"state_dict": {"backbone.fancy.weight": torch.ones(1), "bert.bias": torch.ones(1)}}, path)
    if source == "mask2former":
        torch.save({"model": {"bert.bias": torch.ones(1)}}, path)
    with pytest.raises(CheckpointError, match=rf"names are not those of {source} files:[\s\S]*bert\.bias[\s\S]*--drop"):
        convert_checkpoint(path, source)


def test_two_names_for_one_parameter_are_refused(tmp_path):
    names = ["sem_seg_head.predictor.static_query.weight", "sem_seg_head.predictor.query_feat.weight"]
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"model": {name: np.ones(1) for name in names}}))
    with pytest.raises(CheckpointError, match="same parameter"):
        convert_checkpoint(path, "mask2former")


def test_entries_that_are_no_tensors_are_refused(tmp_path):
    path = mmseg_file(tmp_path / "a.pth", {"contexts": "many"})
    with pytest.raises(CheckpointError, match="contexts is a str"):
        convert_checkpoint(path, "mta-clip")


def test_report_accounts_for_every_entry(tmp_path):
    state = {"backbone.conv1.weight": torch.ones(2, 3), "backbone.attnpool.q_proj.bias": torch.ones(1)}
    conversion = convert_checkpoint(mmseg_file(tmp_path / "a.pth", state), "mta-clip")
    conversion.missing = ["sem_seg_head.x.weight"]
    lines = conversion.report(verbose=True)
    for text in (
        "backbone.conv1.weight",
        "backbone.tower.visual.conv1.weight",
        "attnpool.q_proj.bias",
        "pooling",
        "meta",
    ):
        assert text in lines
    short = conversion.report()
    assert "sem_seg_head.x" in short and "conv1.weight" not in short


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list; expected weights by name"),
        ({"meta": {"iter": 1}, "state_dict": {}}, "none of its entries is a weight of mta-clip"),
    ],
)
def test_files_without_weights_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"a\.pth: {message}"):
        convert_checkpoint(tmp_path / "a.pth", "mta-clip")


def test_counters_that_the_models_norms_do_not_have_are_dropped(tmp_path):
    state = {"backbone.bn1.weight": torch.ones(2), "backbone.bn1.num_batches_tracked": torch.tensor(3)}
    conversion = convert_checkpoint(mmseg_file(tmp_path / "a.pth", state), "mta-clip")
    (weight, counter) = conversion.weights
    fit_to_model(conversion, {weight: torch.zeros(2)})
    assert list(conversion.weights) == [weight]
    assert "does not have" in conversion.dropped["backbone.bn1.num_batches_tracked"] and "tracked" in counter
