"""Bad steps one by one; test_trainer.py and test_launch.py have whole runs with one in them."""

import pytest
import torch
from torch import nn

from mta_clip.engine.non_finite import NonFiniteSteps, damaged


@pytest.fixture
def model():
    return nn.BatchNorm1d(2)


def samples(*pixels: float) -> list[dict]:
    return [
        {"file_name": f"{index}.png", "image": torch.full((3, 2, 2), value), "sem_seg": torch.ones(2, 2)}
        for index, value in enumerate(pixels)
    ]


def skip(steps, model, batch, *, own=True):
    steps.skip("loss became NaN in loss_ce", model=model, batch=batch, own=own, iteration=3, losses={"loss_ce": 1.0})


def test_the_message_names_the_images_and_the_file_holds_all_it_takes_to_repeat_the_step(model, tmp_path):
    with pytest.raises(FloatingPointError) as error:
        skip(NonFiniteSteps(folder=str(tmp_path)), model, samples(1.0, 2.0))
    assert f"in loss_ce; process 0 had 0.png, 1.png, kept in {tmp_path}/non_finite.pth. Lower" in str(error.value)
    kept = torch.load(tmp_path / "non_finite.pth", weights_only=True)
    assert (kept["iteration"], kept["losses"], kept["problem"]) == (3, {"loss_ce": 1.0}, "loss became NaN in loss_ce")
    assert [item["image"].mean().item() for item in kept["batch"]] == [1.0, 2.0]
    assert kept["model"].keys() == model.state_dict().keys()


def test_an_image_with_nan_is_the_only_one_named(model):
    with pytest.raises(FloatingPointError, match=r"process 0 had 1\.png \(infinite or NaN pixels\)\. Lower"):
        skip(NonFiniteSteps(), model, samples(1.0, float("nan"), 2.0))


def test_so_many_steps_in_a_row_are_skipped(model, caplog):
    steps = NonFiniteSteps(most_skipped=2)
    for _ in range(3):
        with caplog.at_level("WARNING"):
            skip(steps, model, samples(1.0))
            skip(steps, model, samples(1.0))
        steps.passed()
    assert "0.png (2 of at most 2 in a row)" in caplog.text
    skip(steps, model, samples(1.0))
    skip(steps, model, samples(1.0))
    with pytest.raises(FloatingPointError, match=r"0\.png"):
        skip(steps, model, samples(1.0))


def test_damaged_weights_cannot_be_skipped(model):
    model.running_mean[1] = float("nan")
    model.running_var[0] = float("inf")  # as in a mask
    model.weight.data[0] = float("inf")
    assert damaged(model) == ["weight", "running_mean"]
    with pytest.raises(FloatingPointError, match=r"were infinite or NaN: running_mean, weight\. Start from an earlier"):
        skip(NonFiniteSteps(most_skipped=9), model, samples(1.0))


def test_a_process_with_a_good_loss_keeps_nothing(model, tmp_path):
    steps = NonFiniteSteps(folder=str(tmp_path), most_skipped=1)
    skip(steps, model, samples(1.0), own=False)
    assert not list(tmp_path.iterdir())


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="MAX_SKIPPED_STEPS is -1"):
        NonFiniteSteps(most_skipped=-1)
