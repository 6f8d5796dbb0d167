import threading

import numpy as np
import pytest
import torch
from PIL import Image
from saved_models import mta_clip_config, segmenter, tag_clip_config
from toy_predictor import NAMES, BrightnessSegmentor

from mta_clip.api.result import Segmentation
from mta_clip.api.segmenter import Segmenter
from mta_clip.config import get_cfg


@pytest.fixture
def toy():
    """Tells dark from bright pixels."""
    cfg = get_cfg()
    cfg.MODEL.PROMPT.CLASS_NAMES, cfg.INPUT.MIN_SIZE_TEST = NAMES, 16
    model = BrightnessSegmentor()
    model.threshold.data.fill_(100)
    return Segmenter(model, cfg)


@pytest.fixture
def photo():
    picture = np.full((16, 24, 3), 20, np.uint8)
    picture[:, 12:] = 220
    return picture


@pytest.fixture(scope="module")
def mta_clip():
    return segmenter(mta_clip_config())


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)


def test_one_image_one_result(toy, photo):
    result = toy(photo)
    assert isinstance(result, Segmentation) and result.path is None
    assert np.array_equal(result.labels, photo[..., 0] > 100) and result.class_names == tuple(NAMES)
    assert result.probabilities.shape == (2, 16, 24)


def test_folders_and_lists(toy, photo, tmp_path, capsys):
    for name in ("b.png", "a.png"):
        Image.fromarray(photo).save(tmp_path / name)
    results = toy(tmp_path)
    assert [result.path for result in results] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert all(result.scores is None and np.array_equal(result.labels, photo[..., 0] > 100) for result in results)
    assert toy(str(tmp_path / "a.png")).path == str(tmp_path / "a.png")
    kept = toy([photo, Image.fromarray(photo[:, ::-1])], scores=True)
    assert [result.labels[0, 0] for result in kept] == [0, 1] and kept[1].probabilities.shape == (2, 16, 24)
    assert toy([]) == [] and len(toy(torch.zeros(3, 3, 8, 8))) == 3
    assert "image" not in capsys.readouterr().err  # no progress bar in logs
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        toy([photo, tmp_path / "gone.png"])


def test_progress_on_a_terminal(toy, photo, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    toy([photo, photo])
    assert "2/2" in capsys.readouterr().err
    toy([photo, photo], progress=False)
    toy(photo)
    assert capsys.readouterr().err == ""


def test_images_of_one_size_share_a_pass(toy, photo, monkeypatch):
    sizes, forward = [], BrightnessSegmentor.forward
    monkeypatch.setattr(BrightnessSegmentor, "forward", lambda self, x: sizes.append(len(x)) or forward(self, x))
    toy([photo, photo, photo, photo[:, :20]], batch_size=2)
    assert sizes == [2, 1, 1]


def test_streams_read_images_as_they_go(toy, photo):
    read = []
    results = toy.stream((read.append(index) or photo for index in range(10)), batch_size=2)
    assert next(results).scores is None and len(read) <= 3


def test_batches_give_the_same_results(mta_clip, noise):
    single = [mta_clip(image, scores=True) for image in (noise, noise[::-1].copy())]
    batched = mta_clip([noise, noise[::-1].copy()], scores=True)
    for one, other in zip(single, batched, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


@pytest.mark.parametrize("cfg", [mta_clip_config(), mta_clip_config(text=False), tag_clip_config()])
@pytest.mark.parametrize("augmented", [False, True])
def test_without_scores_the_rest_is_the_same(cfg, augmented, noise):
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.MIN_SIZES = augmented, (32, 64)
    model = segmenter(cfg)
    full, lean = model(noise), model(noise, scores=False)
    assert np.array_equal(full.labels, lean.labels) and lean.scores is None
    np.testing.assert_allclose(full.confidence, lean.confidence, atol=1e-6)
    assert full.confidence.min() >= 0 and full.confidence.max() <= 1
    np.testing.assert_allclose(full.probabilities.sum(0), 1, atol=1e-5)
    assert full.probabilities.min() >= 0
    claimed = full.scores.max(0) > 0
    assert np.array_equal(full.probabilities.argmax(0)[claimed], full.labels[claimed])
    with pytest.raises(ValueError, match="scores=True"):
        _ = lean.probabilities


def test_names_of_a_call_do_not_outlive_it(mta_clip, noise):
    before = mta_clip(noise)
    other = mta_clip(noise, labels=["a cat", "tree"])
    assert other.class_names == ("a cat", "tree") and other.scores.shape[0] == 2
    assert other.unseen_classes == ("a cat",)
    after = mta_clip(noise)
    assert after.class_names == before.class_names == mta_clip.class_names
    assert np.array_equal(after.scores, before.scores)
    again = mta_clip(noise, ["a cat", "tree"])
    assert np.array_equal(again.scores, other.scores)


def test_text_is_encoded_once_for_calls_with_the_same_names(mta_clip, noise, monkeypatch):
    learner = mta_clip._model.prompt_learner
    encoded, encode_names = [], learner.encode_names
    monkeypatch.setattr(learner, "encode_names", lambda names: encoded.append(names) or encode_names(names))
    for _ in range(3):
        mta_clip(noise, ["one", "two"])
    assert sum(names[0] == "one" for names in encoded) == 1


def test_a_call_that_fails_leaves_no_trace(mta_clip, noise):
    before = mta_clip(noise)
    for labels in (["x " * 100], [""], [], ["a", "a "], "sky"):
        with pytest.raises(ValueError):
            mta_clip(noise, labels=labels)
    assert np.array_equal(mta_clip(noise).scores, before.scores)


def test_threads_get_the_names_they_asked_for(mta_clip, noise):
    wanted = {("one", "two"): None, ("three", "four", "five"): None, None: None}
    expected = {names: mta_clip(noise, names).scores for names in wanted}
    wrong = []

    def work(names):
        for _ in range(5):
            result = mta_clip(noise, names)
            if result.class_names != (names or mta_clip.class_names) or not np.array_equal(
                result.scores, expected[names]
            ):
                wrong.append(names)

    threads = [threading.Thread(target=work, args=(names,)) for names in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_rejecting(mta_clip, noise):
    confidence = mta_clip(noise).confidence
    threshold = float(np.median(confidence))
    result = mta_clip(noise, other="nothing", threshold=threshold)
    assert result.class_names == (*mta_clip.class_names, "nothing")
    assert np.array_equal(result.labels == 4, confidence < threshold)
    few = mta_clip([noise], ["sky", "car", "cat"], other="nothing", threshold=threshold)[0]
    assert few.class_names == ("sky", "car", "cat", "nothing")
    assert np.array_equal(few.labels == 3, few.confidence < threshold)
    assert np.array_equal(mta_clip(noise, other="x").labels, mta_clip(noise, other="x", threshold=0.3).labels)
    with pytest.raises(ValueError, match="needs other"):
        mta_clip(noise, threshold=0.3)


def test_models_that_know_no_language_warn(noise, caplog):
    model = segmenter(mta_clip_config())
    model(noise, ["tree", "sky"])
    assert caplog.text == ""
    model(noise, ["tree", "a cat"])
    assert "not pretrained on language" in caplog.text and "mean: a cat." in caplog.text
    caplog.clear()
    model(noise, ["tree", "a cat"])  # told once
    cfg = mta_clip_config()
    trained = segmenter(cfg)
    cfg.MODEL.CLIP.NAME, cfg.MODEL.CLIP.PRETRAINED = "RN50", "openai"
    Segmenter(trained._model, cfg)(noise, ["tree", "a cat"])
    assert caplog.text == ""
    cfg.MODEL.CLIP.NAME = "mta-tiny"
    Segmenter(trained._model, cfg)(noise, ["tree", "a cat"])
    assert "not pretrained on language" in caplog.text


def test_models_without_text_know_their_classes_only(noise):
    model = segmenter(mta_clip_config(text=False))
    with pytest.raises(ValueError, match="has not learned to compare masks with text"):
        model(noise, ["a cat"])
    assert model(noise, other="none").class_names == (*model.class_names, "none")


def test_what_takes_other_names():
    assert segmenter(mta_clip_config()).takes_names and segmenter(tag_clip_config()).takes_names
    for cfg in (mta_clip_config(text=False), mta_clip_config("MODEL.MTA.SIMILARITY_WEIGHT", 0.0)):
        model = segmenter(cfg)
        with pytest.raises(ValueError, match="knows only its training classes"):
            model(np.zeros((8, 8, 3), np.uint8), ["sky"])
        assert not model.takes_names


def test_classes_must_be_named(toy):
    with pytest.raises(ValueError, match="CLASS_NAMES"):
        Segmenter(toy._model, get_cfg())


def test_text_form(mta_clip):
    assert repr(mta_clip) == "<Segmenter: MTACLIP with 4 classes on cpu>"
