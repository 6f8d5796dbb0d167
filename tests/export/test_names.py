import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from exported import NAMES, OTHER_NAMES, tiny
from tiny_models import tiny_config
from toy_predictor import BrightnessSegmentor

from mta_clip.export.names import no_object_features, require_text, save_names, text_features


def test_each_name_has_rows_of_its_own():
    for name, contexts in (("MTACLIP", 2), ("TagCLIP", 1)):
        model, _ = tiny(name)
        text = text_features(model, OTHER_NAMES)
        assert text.shape[:2] == (len(OTHER_NAMES), contexts) and text.dtype == torch.float32
        torch.testing.assert_close(text_features(model, OTHER_NAMES[2:4]), text[2:4], rtol=1e-4, atol=1e-5)


def test_no_object_is_the_last_row_of_training():
    model, _ = tiny("MTACLIP")
    with torch.no_grad():
        torch.testing.assert_close(no_object_features(model)[0], model.prompt_learner()[:, -1])


def test_an_archive_holds_what_a_graph_takes(tmp_path):
    model, _ = tiny("TagCLIP")
    save_names(model, OTHER_NAMES, tmp_path / "new" / "names.npz")
    with np.load(tmp_path / "new" / "names.npz") as archive:
        assert sorted(archive) == ["names", "seen", "text"]
        assert archive["names"].tolist() == OTHER_NAMES
        np.testing.assert_array_equal(archive["text"], text_features(model, OTHER_NAMES).numpy())
        assert archive["seen"].tolist() == [name in NAMES[1:] for name in OTHER_NAMES]  # "sky" was held out
    model, _ = tiny("MTACLIP")
    save_names(model, OTHER_NAMES, tmp_path / "names.npz")
    assert sorted(np.load(tmp_path / "names.npz")) == ["names", "text"]


def test_models_without_text_are_refused():
    for model in (tiny("Mask2Former")[0], build_model(tiny_config("MODEL.MTA.SIMILARITY_WEIGHT", 0.0))):
        with pytest.raises(ValueError, match=r"compares masks with text; this one has none .*--vocabulary closed"):
            require_text(model)


def test_a_model_of_another_kind_has_no_open_graph():
    """It takes names, but by means of its own."""
    model = BrightnessSegmentor()
    assert model.takes_names
    with pytest.raises(ValueError, match="--vocabulary closed"):
        require_text(model)


def test_names_are_checked():
    model, _ = tiny("TagCLIP")
    with pytest.raises(ValueError, match="is empty"):
        text_features(model, ["sky", ""])
