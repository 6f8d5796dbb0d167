"""Numbers of DenseCLIP are those of its paper and code for the ResNet-50 at 512x512."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.utils import comm
from tiny_models import IGNORE, accuracy, batch, tiny_config, tiny_model
from torch.nn import functional as F

from mta_clip.config import get_cfg
from mta_clip.modeling.pixel_text import PixelTextHead

SHAPE = {"res4": ShapeSpec(channels=6, stride=16), "res5": ShapeSpec(channels=8, stride=32)}
MAPS = {"res4": torch.zeros(2, 6, 6, 10), "res5": torch.randn(2, 8, 3, 5, generator=torch.Generator().manual_seed(0))}
ALONE = (
    *("MODEL.MTA.PIXEL_TEXT_WEIGHT", 0.4, "MODEL.MTA.SIMILARITY_WEIGHT", 0.0),
    *("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoder"),
)


def make_head(**options) -> PixelTextHead:
    torch.manual_seed(1)
    return PixelTextHead(input_shape=SHAPE, num_classes=4, text_dim=7, **options)


def test_shapes_of_denseclip():
    shape = {f"res{i + 2}": ShapeSpec(channels=256 * 2**i, stride=4 * 2**i) for i in range(4)}
    cfg = get_cfg()
    cfg.MODEL.MTA.PIXEL_TEXT_WEIGHT = 0.4
    head = PixelTextHead(cfg, shape)
    assert {name: s.channels for name, s in head.output_shape().items()} == {
        "res2": 256, "res3": 512, "res4": 1024, "res5": 2198,
    }  # fmt: skip
    assert head.output_shape()["res5"].stride == 32
    features = {"res5": torch.randn(1, 2048, 16, 16), "res2": torch.zeros(1)}
    wider, scores = head(features, torch.randn(1, 151, 1024))
    assert scores.shape == (1, 150, 16, 16) and wider["res5"].shape == (1, 2198, 16, 16)
    assert wider["res2"] is features["res2"]


def test_scores_equal_a_loop_over_pixels():
    """Mean over contexts of cosines that are not divided by the temperature; "no object" is left out."""
    head, text = make_head(), torch.randn(3, 5, 7)
    wider, scores = head(MAPS, text)
    weight = head.projection.weight[:, :, 0, 0]
    for image, y, x in ((0, 0, 0), (1, 2, 4), (1, 0, 3)):
        pixel = weight @ MAPS["res5"][image, :, y, x] + head.projection.bias
        expected = torch.stack([F.cosine_similarity(pixel, row, dim=-1) for row in text[:, :4]]).mean(0)
        torch.testing.assert_close(scores[image, :, y, x], expected)
    assert torch.equal(wider["res5"], torch.cat([MAPS["res5"], scores], dim=1))


def test_text_of_each_image():
    head, text = make_head(), torch.randn(3, 2, 5, 7)
    _, scores = head(MAPS, text)
    for image in range(2):
        _, alone = head({"res5": MAPS["res5"][image : image + 1]}, text[:, image])
        torch.testing.assert_close(scores[image : image + 1], alone)


def test_loss_in_closed_form():
    """The same score everywhere: ln 4. One at the right class and zero elsewhere: ln(1 + 3 exp(-1 / 0.07))."""
    head, labels = make_head(), torch.full((2, 24, 40), 2)
    same = torch.full((2, 4, 3, 5), 0.3)
    assert head.loss(same, labels, 0.07, IGNORE).item() == pytest.approx(0.4 * math.log(4))
    right = F.one_hot(torch.full((2, 3, 5), 2), 4).permute(0, 3, 1, 2).float()
    assert head.loss(right, labels, 1.0, IGNORE).item() == pytest.approx(0.4 * math.log(1 + 3 / math.e))
    assert head.loss(right, labels, 0.07, IGNORE).item() == pytest.approx(1.2 * math.exp(-1 / 0.07), rel=0.05)
    assert head.loss(-right, labels, 0.07, IGNORE).item() == pytest.approx(0.4 * (math.log(3) + 1 / 0.07))


def test_ignored_pixels_do_not_count():
    head = make_head(loss_weight=2.0)
    labels = torch.randint(0, 4, (2, 24, 40))
    scores = torch.rand(2, 4, 24, 40)
    labels[:, :, 20:] = IGNORE
    left = head.loss(scores[..., :20], labels[:, :, :20], 0.07, IGNORE)
    torch.testing.assert_close(head.loss(scores, labels, 0.07, IGNORE), left)
    assert head.loss(scores, torch.full_like(labels, IGNORE), 0.07, IGNORE) == 0


def test_two_processes_average_to_one(monkeypatch):
    head = make_head()
    scores, labels = torch.rand(2, 4, 6, 6), torch.randint(0, 4, (2, 6, 6))
    labels[0, :, 1:] = IGNORE
    whole = head.loss(scores, labels, 0.07, IGNORE)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: values.fill_(6 + 36))
    halves = [head.loss(scores[i : i + 1], labels[i : i + 1], 0.07, IGNORE) for i in range(2)]
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_needs_text():
    with pytest.raises(ValueError, match=r"PIXEL_TEXT_WEIGHT 0.4 compares pixels with text, but MODEL.PROMPT.NAME"):
        tiny_model(*ALONE, text=False)


@pytest.mark.parametrize("options", [ALONE, ALONE[:2]], ids=["alone", "with masks"])
class TestInAModel:
    def test_every_trained_parameter_takes_part(self, options):
        model = tiny_model(*options).train()
        losses = model(batch())
        assert losses["loss_pixel_text"] > 0 and ("loss_sim" in losses) == (options != ALONE)
        sum(losses.values()).backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
        assert model.prompt_learner.contexts.grad.any()

    def test_learns(self, options):
        model = tiny_model(*options).train()
        (sample,) = batch(1)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0)
        first = None
        for _ in range(60):
            optimizer.zero_grad()
            losses = model([sample])
            first = first or losses["loss_pixel_text"].item()
            sum(losses.values()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        assert losses["loss_pixel_text"] < 0.75 * first  # 2 x 3 cells cannot show all of 4 x 4 blocks
        assert accuracy(model, sample) > 0.8

    def test_text_changes_the_result(self, options):
        model = tiny_model(*options).eval()
        before = model(batch(1))[0]["sem_seg"]
        with torch.no_grad():
            model.prompt_learner.contexts += 1.0
        after = model.train().eval()(batch(1))[0]["sem_seg"]
        assert not torch.equal(before, after)


def test_off_by_default():
    assert tiny_config().MODEL.MTA.PIXEL_TEXT_WEIGHT == 0 and tiny_model().sem_seg_head.pixel_text is None
