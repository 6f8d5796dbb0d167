"""Fine-tuning to other classes: what is kept, by name of the class, and what starts fresh."""

import logging

import pytest
import torch
from detectron2.modeling import build_model
from tiny_models import NAMES, tiny_config

from mta_clip.checkpoint import CheckpointError, SegmentationCheckpointer

OTHERS = ["tree", "my dog", "sky", "water", "roof", "red bus"]  # shares tree and sky
TAGCLIP = (
    "MODEL.META_ARCHITECTURE", "TagCLIP", "MODEL.BACKBONE.NAME", "PromptedImageEncoder", "MODEL.SEM_SEG_HEAD.NAME",
    "TrustyHead", "MODEL.CLIP.NAME", "mta-tiny-vit", "MODEL.TAGCLIP.NHEADS", "4",
    "MODEL.TAGCLIP.IMAGE_SIZE", "(96, 96)", "MODEL.TAGCLIP.NUM_PROMPTS", "2",
)  # fmt: skip


def made(names, *overrides, seed, text=True):
    """A model of these classes, and its config."""
    cfg = tiny_config(*overrides, text=text)
    cfg.MODEL.PROMPT.CLASS_NAMES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = list(names), len(names)
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 255
    torch.manual_seed(seed)
    return build_model(cfg), cfg


def fine_tuned(folder, *overrides, text=True, names=OTHERS, named=True, changes=()):
    """Weights of a model of NAMES, of one of other classes before it started from these, and after."""
    source, cfg = made(NAMES, *overrides, seed=0, text=text)
    SegmentationCheckpointer(source, str(folder), config=cfg.dump() if named else "").save("model")
    model, cfg = made(names, *overrides, *changes, seed=1, text=text)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    checkpointer = SegmentationCheckpointer(model, reset_classes=True, config=cfg.dump())
    checkpointer.resume_or_load(str(folder / "model.pth"), resume=False)
    return source.state_dict(), before, model.state_dict()


def assert_rows(source, before, after, lead=0, groups=1, shared=((0, 2), (2, 0))):
    """Rows of shared classes (own index, the source's), of no object and before all classes are the source's."""
    assert torch.equal(after[:lead], source[:lead])
    source, before, after = (rows[lead:].unflatten(0, (groups, -1)) for rows in (source, before, after))
    assert torch.equal(after[:, -1], source[:, -1])
    for own, theirs in shared:
        assert torch.equal(after[:, own], source[:, theirs])
    for own in set(range(after.shape[1] - 1)) - {own for own, _ in shared}:
        assert torch.equal(after[:, own], before[:, own])


@pytest.mark.parametrize("text", [True, False])
def test_classes_of_the_same_name_are_kept(tmp_path, caplog, text):
    caplog.set_level(logging.WARNING)
    states = fine_tuned(tmp_path, text=text)
    layouts = {
        "sem_seg_head.transformer_decoder.class_embed.weight": (0, 1),
        "sem_seg_head.transformer_decoder.class_embed.bias": (0, 1),
    }
    layouts |= {"criterion.empty_weight": (0, 1)}
    if text:
        layouts["sem_seg_head.transformer_decoder.query_embed.weight"] = (10, 2)
    for name, layout in layouts.items():
        assert_rows(*(state[name] for state in states), *layout)
    source, _, after = states
    assert all(torch.equal(after[name], source[name]) for name in set(source) - set(layouts))
    assert "kept for tree, sky, no object, and start fresh for my dog, water, roof, red bus; all else" in caplog.text
    assert all(name in caplog.text for name in layouts)


def test_a_file_without_names_keeps_no_class(tmp_path, caplog):
    states = fine_tuned(tmp_path, named=False)
    assert_rows(*(state["sem_seg_head.transformer_decoder.query_embed.weight"] for state in states), 10, 2, shared=())
    assert "kept for no object, and start fresh for tree, my dog" in caplog.text
    assert "does not name its classes" in caplog.text


def test_as_many_classes_in_another_order(tmp_path):
    states = fine_tuned(tmp_path, names=NAMES[::-1])
    shared = [(index, 3 - index) for index in range(4)]
    assert_rows(*(state["sem_seg_head.transformer_decoder.class_embed.weight"] for state in states), shared=shared)


def test_tagclip_has_nothing_to_reset(tmp_path, caplog):
    source, _, after = fine_tuned(tmp_path, *TAGCLIP)
    assert source.keys() == after.keys() and all(torch.equal(after[name], source[name]) for name in source)
    assert "no weight depends on the number of classes" in caplog.text


def test_nothing_is_reset_unless_asked(tmp_path):
    source, cfg = made(NAMES, seed=0)
    SegmentationCheckpointer(source, str(tmp_path), config=cfg.dump()).save("model")
    model, cfg = made(NAMES[::-1], seed=1)
    SegmentationCheckpointer(model, config=cfg.dump()).resume_or_load(str(tmp_path / "model.pth"), resume=False)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())


def test_other_differences_are_still_errors(tmp_path):
    for key, value in (
        ("MASK_FORMER.HIDDEN_DIM", 64),
        ("PROMPT.NUM_CONTEXTS", 3),
        ("MASK_FORMER.NUM_OBJECT_QUERIES", 8),
    ):
        with pytest.raises(CheckpointError, match=r"query_embed\.weight: file \(20, 32\), model"):
            fine_tuned(tmp_path, changes=(f"MODEL.{key}", value))


def test_a_resumed_run_keeps_all(tmp_path):
    source, cfg = made(NAMES, seed=0)
    SegmentationCheckpointer(source, str(tmp_path), config=cfg.dump()).save("model")
    model, _ = made(NAMES, seed=1)
    checkpointer = SegmentationCheckpointer(model, str(tmp_path), reset_classes=True)
    checkpointer.resume_or_load("", resume=True)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())
    assert checkpointer.reset_classes
