"""The whole model, with text (MTA-CLIP) and without (Mask2Former)."""

import pytest
import torch
from detectron2.modeling.postprocessing import sem_seg_postprocess
from tiny_models import IGNORE, NAMES, accuracy, batch, save_tiny_bert, tiny_config, tiny_model

from mta_clip.engine.optimizer import build_optimizer

WITH_AND_WITHOUT_TEXT = pytest.mark.parametrize("text", [True, False], ids=["text", "no text"])


@WITH_AND_WITHOUT_TEXT
def test_scores_have_the_wanted_size(text):
    model = tiny_model(text=text).eval()
    first, second = batch(1, (50, 70)) + batch(1, (33, 90))
    outputs = model([{**first, "height": 101, "width": 77}, second])
    assert outputs[0]["sem_seg"].shape == (len(NAMES), 101, 77)
    assert outputs[1]["sem_seg"].shape == (len(NAMES), 33, 90)
    assert outputs[0]["sem_seg"].dtype == torch.float32 and outputs[0]["sem_seg"].min() >= 0


def test_label_maps_equal_the_argmax_of_scores():
    sample = {**batch(1)[0], "height": 131, "width": 97}
    scores = tiny_model().eval()([sample])[0]["sem_seg"]
    labels = tiny_model("TEST.SEM_SEG.LABEL_MAPS_ONLY", True).eval()([sample])[0]["labels"]
    assert (scores.argmax(0) == labels).float().mean() > 0.999


@pytest.mark.parametrize("output_size", [(131, 97), (64, 72), (30, 200)])
def test_label_maps_of_windows_equal_the_argmax_of_their_scores(output_size):
    """Images of a batch differ in size, so one of them is padded."""
    windows = ["TEST.SLIDING_WINDOW.ENABLED", True, "TEST.SLIDING_WINDOW.BATCH", 3]
    windows += ["TEST.SLIDING_WINDOW.SIZE", [32, 40], "TEST.SLIDING_WINDOW.STRIDE", [13, 25]]
    height, width = output_size
    samples = [{**x, "height": height, "width": width} for x in batch(1) + batch(1, (50, 33))]
    model = tiny_model(*windows).eval()
    scores = [result["sem_seg"] for result in model(samples)]
    model.label_maps_only = True
    for result, expected, sample in zip(model(samples), scores, samples, strict=True):
        assert result.keys() == {"labels", "label_scores"}
        assert (result["labels"] == expected.argmax(0)).float().mean() > 0.999
        images = model.preprocess([sample])
        with torch.no_grad():
            (score_map,) = model.score_maps(images)
            alone = sem_seg_postprocess(score_map.whole().classes, images.image_sizes[0], height, width)
        torch.testing.assert_close(expected, alone, rtol=0, atol=1e-5)


@WITH_AND_WITHOUT_TEXT
def test_a_picture_in_a_batch_scores_as_alone(text):
    model = tiny_model(text=text).eval()
    samples = batch(2, (64, 64))
    together = model(samples)
    for sample, expected in zip(samples, together, strict=True):
        torch.testing.assert_close(model([sample])[0]["sem_seg"], expected["sem_seg"], atol=1e-5, rtol=1e-4)


@WITH_AND_WITHOUT_TEXT
def test_gradients_reach_every_trainable_parameter_and_no_frozen_one(text):
    model = tiny_model(text=text).train()
    with torch.no_grad():  # away from the initial zeros, which block gradients: residual branches start switched off
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    sum(model(batch()).values()).backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    frozen = {n.split(".")[1] for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == ({"text_encoder"} if text else set())


def test_without_similarity_loss_every_trainable_parameter_still_takes_part():
    """As DistributedDataParallel demands."""
    model = tiny_model("MODEL.MTA.SIMILARITY_WEIGHT", 0.0).train()
    losses = model(batch())
    assert not any("sim" in name for name in losses)
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@WITH_AND_WITHOUT_TEXT
def test_loss_names(text):
    losses = tiny_model(text=text).train()(batch())
    kinds = ["loss_ce", "loss_mask", "loss_dice"] + (["loss_sim"] if text else [])
    assert sorted(losses) == sorted(kind + suffix for kind in kinds for suffix in ("", "_0", "_1", "_2"))
    assert all(value.shape == () and value.isfinite() for value in losses.values())


@WITH_AND_WITHOUT_TEXT
def test_overfits_one_image(text):
    model = tiny_model(text=text)
    (sample,) = batch(1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0)
    model.train()
    for _ in range(80):
        optimizer.zero_grad()
        sum(model([sample]).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert accuracy(model, sample) > 0.9


@WITH_AND_WITHOUT_TEXT
def test_a_batch_without_labels_trains_on(text):
    model = tiny_model(text=text).train()
    nothing = [{**x, "sem_seg": torch.full_like(x["sem_seg"], IGNORE)} for x in batch()]
    losses = model(nothing)
    assert losses["loss_mask"] == 0 and losses["loss_dice"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_permuted_classes_permute_scores():
    order = [2, 0, 3, 1]
    model = tiny_model().eval()
    permuted = tiny_model("MODEL.PROMPT.CLASS_NAMES", [NAMES[i] for i in order]).eval()
    state = model.state_dict()
    head = "sem_seg_head.transformer_decoder."
    queries, rows, contexts = 10, len(NAMES) + 1, 2
    with_none = [*order, len(NAMES)]
    state[head + "class_embed.weight"] = state[head + "class_embed.weight"][with_none]
    state[head + "class_embed.bias"] = state[head + "class_embed.bias"][with_none]
    positions = state[head + "query_embed.weight"]
    text_positions = positions[queries:].unflatten(0, (contexts, rows))[:, with_none].flatten(0, 1)
    state[head + "query_embed.weight"] = torch.cat([positions[:queries], text_positions])
    permuted.load_state_dict(state)
    sample = batch(1)
    expected = model(sample)[0]["sem_seg"][order]
    torch.testing.assert_close(permuted(sample)[0]["sem_seg"], expected, atol=1e-5, rtol=1e-4)


def test_window_larger_than_the_image_is_the_whole_image():
    sample = batch(1, (50, 60))
    whole = tiny_model().eval()(sample)[0]["sem_seg"]
    windows = tiny_model(
        *("TEST.SLIDING_WINDOW.ENABLED", True),
        *("TEST.SLIDING_WINDOW.SIZE", [96, 96], "TEST.SLIDING_WINDOW.STRIDE", [64, 64]),
    ).eval()
    torch.testing.assert_close(windows(sample)[0]["sem_seg"], whole, atol=1e-5, rtol=1e-4)


def test_windows_cost_no_text_work_after_the_first():
    overrides = ["TEST.SLIDING_WINDOW.ENABLED", True, "TEST.SLIDING_WINDOW.SIZE", [32, 32]]
    model = tiny_model(*overrides, "TEST.SLIDING_WINDOW.STRIDE", [32, 32]).eval()
    calls = []
    learner = model.prompt_learner
    encode = learner.encode_names
    learner.encode_names = lambda names: calls.append(1) or encode(names)
    model(batch(1, (64, 128)))
    model(batch(1, (64, 128)))
    assert len(calls) == 1


def test_cached_text_equals_recomputed_text():
    model = tiny_model().eval()
    cached = model.prompt_learner()
    assert model.prompt_learner() is cached
    torch.testing.assert_close(cached, model.prompt_learner.encode_classes())
    with torch.no_grad():
        model.prompt_learner.contexts += 1.0
    model.train().eval()
    assert not torch.allclose(model.prompt_learner(), cached)


class TestVocabulary:
    def test_one_channel_per_name_and_back(self):
        model = tiny_model().eval()
        sample = batch(1)
        trained = model(sample)[0]["sem_seg"]
        model.set_vocabulary(["cat", "dog", "house", "river", "moon"])
        assert model(sample)[0]["sem_seg"].shape[0] == 5
        model.set_vocabulary(None)
        assert torch.equal(model(sample)[0]["sem_seg"], trained)

    def test_follows_names_not_positions(self):
        model = tiny_model().eval()
        sample = batch(1)
        model.set_vocabulary(["cat", "dog", "house"])
        first = model(sample)[0]["sem_seg"]
        model.set_vocabulary(["house", "cat", "dog"])
        torch.testing.assert_close(model(sample)[0]["sem_seg"], first[[2, 0, 1]], atol=1e-5, rtol=1e-4)

    def test_needs_text_that_masks_were_compared_with(self):
        without_loss = tiny_model("MODEL.MTA.SIMILARITY_WEIGHT", 0.0)
        for model in (tiny_model(text=False), without_loss):
            with pytest.raises(ValueError, match=r"not learned to compare masks with text.*SIMILARITY_WEIGHT"):
                model.set_vocabulary(["cat"])

    def test_refuses_an_empty_name(self):
        with pytest.raises(ValueError, match="empty"):
            tiny_model().set_vocabulary(["cat", " "])


@pytest.mark.parametrize("classifier", ["linear", "text", "ensemble"])
def test_classifiers(classifier):
    model = tiny_model("MODEL.MTA.CLASSIFIER", classifier).eval()
    assert model(batch(1))[0]["sem_seg"].shape[0] == len(NAMES)


def test_text_queries_can_be_left_out():
    model = tiny_model("MODEL.MTA.TEXT_QUERIES", False).train()
    losses = model(batch())
    assert "loss_sim" in losses
    sum(losses.values()).backward()
    assert model.prompt_learner.contexts.grad.abs().sum() > 0


def test_a_label_without_a_class_is_named():
    (sample,) = batch(1)
    sample["sem_seg"][5, 5] = 77
    with pytest.raises(ValueError, match="77"):
        tiny_model().train()([sample])


def test_runs_under_bfloat16_autocast():
    model = tiny_model()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.train()(batch())
    assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()


@WITH_AND_WITHOUT_TEXT
def test_inference_in_bfloat16_changes_little(text):
    options = ("TEST.PRECISION", "bfloat16", "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_FULL_PRECISION", False)
    exact, reduced = (tiny_model(*o, text=text).eval()(batch(1))[0]["sem_seg"] for o in ((), options))
    assert reduced.dtype == torch.float32 and not torch.equal(reduced, exact)
    torch.testing.assert_close(reduced, exact, rtol=0.05, atol=0.05 * exact.max().item())


@pytest.mark.parametrize("prompt", ["ContextPromptLearner", "TemplatePrompt"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_text_tower_of_another_kind_and_width(prompt, checkpointing, tmp_path):
    options = ["MODEL.CLIP.TEXT_NAME", save_tiny_bert(tmp_path), "MODEL.CLIP.TEXT_CHECKPOINTING", checkpointing]
    model = tiny_model(*options, "MODEL.PROMPT.NAME", prompt)
    assert model.prompt_learner.text_dim == model.sem_seg_head.transformer_decoder.mask_align.out_features == 32
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.train()(batch())
    sum(losses.values()).backward()
    if prompt == "ContextPromptLearner":
        assert model.prompt_learner.contexts.grad.abs().amax(dim=-1).min() > 0
    model.eval().set_vocabulary(["red disc", "ring", "sea"])
    assert model(batch(1))[0]["sem_seg"].shape[0] == 3


@WITH_AND_WITHOUT_TEXT
def test_checkpointing_gives_the_same_gradients(text):
    results = []
    for checkpointing in (False, True):
        model = tiny_model("MODEL.SEM_SEG_HEAD.CHECKPOINTING", checkpointing, text=text).train()
        assert model.sem_seg_head.pixel_decoder.checkpointing == checkpointing
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            losses = model(batch())
        sum(losses.values()).backward()
        results.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*results)


def test_optimizer_leaves_the_text_tower_alone():
    cfg = tiny_config()
    model = tiny_model()
    before = {n: p.clone() for n, p in model.prompt_learner.text_encoder.state_dict().items()}
    optimizer = build_optimizer(cfg, model)
    sum(model.train()(batch()).values()).backward()
    optimizer.step()
    after = model.prompt_learner.text_encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_state_dict_round_trip():
    first, second = tiny_model(seed=0), tiny_model(seed=1)
    second.load_state_dict(first.state_dict())
    sample = batch(1)
    assert torch.equal(first.eval()(sample)[0]["sem_seg"], second.eval()(sample)[0]["sem_seg"])


@pytest.mark.parametrize(
    ("classifier", "protocol", "told"),
    [("linear", "inductive", True), ("linear", "supervised", False), ("text", "inductive", False)],
)
def test_the_linear_classifier_does_not_find_classes_without_labels(classifier, protocol, told, caplog):
    unseen = ["DATASETS.UNSEEN_CLASSES", [NAMES[1]], "DATASETS.PROTOCOL", protocol]
    tiny_model(*unseen, "MODEL.MTA.CLASSIFIER", classifier)
    assert (f"does not find classes without labels in training ({NAMES[1]})" in caplog.text) == told


@pytest.mark.parametrize("protocol", ["transductive", "inductive_released"])
@WITH_AND_WITHOUT_TEXT
def test_protocols_that_need_tagclip_are_refused(text, protocol):
    with pytest.raises(ValueError, match=rf"'{protocol}', but MTACLIP supports inductive and supervised only"):
        tiny_model("DATASETS.PROTOCOL", protocol, text=text)
