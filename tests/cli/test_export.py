import argparse

import numpy as np
import pytest
import torch
from exported import CONFIGS, check_close, eager, random_images, tiny, torch_runner

from mta_clip.cli import export
from mta_clip.cli.options import parse


@pytest.fixture
def weights(tmp_path):
    """Writes the checkpoint of a tiny model, with its config; returns the model and the path."""

    def write(name):
        model, cfg = tiny(name)
        path = tmp_path / "trained" / "model.pth"
        path.parent.mkdir()
        torch.save({"model": model.state_dict(), "config": cfg.dump()}, path)
        return model, str(path)

    return write


def run(*arguments):
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    return export.run(parse(parser, [str(argument) for argument in arguments]))


def test_a_checkpoint_becomes_a_graph(weights, tmp_path, capsys):
    model, path = weights("TagCLIP")
    output = tmp_path / "model.pt2"
    assert (
        run("--weights", path, "--output", output, "--size", 64, 64, "--labels", "sky, a cat", "MODEL.COMPILE", True)
        == 0
    )
    assert capsys.readouterr().out.splitlines() == [str(output), str(output.with_suffix(".json"))]
    model.set_vocabulary(["sky", "a cat"])
    images = random_images(2, (64, 64))
    check_close(torch_runner(output)(images)[0], eager(model, images))


def test_names_alone(weights, tmp_path, capsys):
    _, path = weights("MTACLIP")
    assert run("--weights", path, "--output", tmp_path / "cat.npz", "--labels", "a cat") == 0
    assert np.load(tmp_path / "cat.npz")["names"].tolist() == ["a cat"]
    assert capsys.readouterr().out == f"{tmp_path / 'cat.npz'}\n"
    run("--weights", path, "--output", tmp_path / "own.npz")
    assert np.load(tmp_path / "own.npz")["names"].tolist() == list(CONFIGS["MTACLIP"]().MODEL.PROMPT.CLASS_NAMES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output", "model.tflite"), r"model\.tflite: the suffix is none of \.onnx, \.pt2, \.xml, \.npz"),
        (("--output", "model.onnx", "--format", "torch"), r"model\.onnx: a file of format torch ends in \.pt2"),
        (("--output", "model.pt2", "--vocabulary", "open"), "compares masks with text; this one has none"),
        (("--output", "names.npz"), "compares masks with text; this one has none"),
        (("--output", "model.pt2", "--size", 0, 9), "both positive"),
    ],
)
def test_wrong_options_are_refused(options, message, weights, tmp_path, monkeypatch):
    _, path = weights("Mask2Former")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        run("--weights", path, *options)
    assert [file.name for file in tmp_path.iterdir()] == ["trained"]
