"""The command: exit status, report, files; what it converts is tested with mta_clip.checkpoint.convert."""

import os

import pytest
import safetensors.torch
import torch
from scripts import load_script


@pytest.fixture(scope="module")
def main():
    return load_script("tools/convert_checkpoint.py").main


@pytest.fixture
def released(tmp_path):
    path = tmp_path / "iter_1.pth"
    state = {"backbone.conv1.weight": torch.ones(12, 3, 3, 3), "gamma": torch.ones(4)}
    torch.save({"meta": {}, "state_dict": state}, path)
    return path


def test_writes_the_weights_and_reports(main, released, tmp_path, capsys):
    output = tmp_path / "sub" / "ours.safetensors"
    assert main(["--source", "mta-clip", str(released), str(output)]) == 0
    content = safetensors.torch.load_file(output)
    assert list(content) == ["backbone.tower.visual.conv1.weight"]
    text = capsys.readouterr().out
    assert "never used" in text and f"MODEL.WEIGHTS {output}" in text and "not checked" in text
    assert os.listdir(output.parent) == ["ours.safetensors"]


def test_pth_holds_what_detectron2_reads(main, released, tmp_path):
    output = tmp_path / "ours.pth"
    assert main(["--source", "mta-clip", "--drop", "gamma", str(released), str(output)]) == 0
    assert list(torch.load(output, weights_only=True)["model"]) == ["backbone.tower.visual.conv1.weight"]


def test_checks_clip_weights_against_the_architecture(main, tmp_path, capsys):
    path, output = tmp_path / "clip.pth", tmp_path / "ours.pth"
    torch.save({"visual.conv1.weight": torch.ones(2, 3, 3, 3)}, path)
    overrides = ["--verbose", "MODEL.CLIP.NAME", "mta-tiny"]
    assert main(["--source", "openai-clip", str(path), str(output), *overrides]) == 1
    assert "visual.conv1.weight: file (2, 3, 3, 3), model (12, 3, 3, 3)" in capsys.readouterr().err
    assert not output.exists()
    torch.save({"visual.conv1.weight": torch.ones(12, 3, 3, 3)}, path)
    assert main(["--source", "openai-clip", str(path), str(output), *overrides]) == 0
    assert "MODEL.CLIP.PRETRAINED" in capsys.readouterr().out
    assert list(torch.load(output, weights_only=True)) == ["visual.conv1.weight"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "mta-clip", "INPUT", "OUT.onnx"], r".safetensors or .pth, not as '.onnx'"),
        (["--source", "mta-clip", "nowhere.pth", "OUT.pth"], "nowhere.pth: no such checkpoint file"),
        (["--source", "mask2former", "INPUT", "OUT.pth"], "names are not those of mask2former files"),
        (["--source", "mta-clip", "INPUT", "OUT.pth", "--config-file", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--source", "mta-clip", "INPUT", "OUT.pth", "MODEL.CLIP.NAMES", "RN50"], "MODEL.CLIP.NAMES"),
    ],
)
def test_errors_are_one_message_and_leave_no_file(main, released, tmp_path, capsys, arguments, message):
    names = {"INPUT": str(released), "OUT.pth": str(tmp_path / "out.pth"), "OUT.onnx": str(tmp_path / "out.onnx")}
    assert main([names.get(argument, argument) for argument in arguments]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_code_in_the_input_does_not_run(main, tmp_path, capsys):
    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'it_ran'}",)

    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {"backbone.conv1.weight": torch.ones(1)}, "meta": {"hooks": Trap()}}, path)
    assert main(["--source", "mta-clip", str(path), str(tmp_path / "ours.pth")]) == 1
    assert "evil.pth: " in (error := capsys.readouterr().err) and ".system" in error
    assert not (tmp_path / "it_ran").exists() and not (tmp_path / "ours.pth").exists()
