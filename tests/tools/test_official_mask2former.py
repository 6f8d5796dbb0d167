"""The official model from a checkout (a stand-in here), and the comparison of its scores with ours."""

import subprocess
import sys

import pytest
import torch
from detectron2.modeling import build_model
from official_stand_in import make_checkout
from released_weights import BASELINE, mask2former_state, tiny_config
from scripts import ROOT, load_script


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/official_mask2former.py")


def export(checkout, folder):
    command = [sys.executable, ROOT / "tools" / "official_mask2former.py", checkout, "--export", folder]
    return subprocess.run([*command, "--size", "32", "--classes", "4"], capture_output=True, text=True)


def test_export_writes_weights_image_and_scores(tool, tmp_path):
    result = export(make_checkout(tmp_path), tmp_path)
    assert result.returncode == 0, result.stderr
    weights = torch.load(tmp_path / tool.WEIGHTS, weights_only=True)["model"]
    content = torch.load(tmp_path / tool.SCORES, weights_only=True)
    assert content["image"].shape == (3, 32, 32) and content["scores"].shape == (5, 32, 32)
    expected = torch.nn.functional.conv2d(content["image"][None], weights["layer.weight"], weights["layer.bias"])[0]
    torch.testing.assert_close(content["scores"], expected)


def test_a_missing_module_is_named(tmp_path):
    checkout = make_checkout(tmp_path)
    package = checkout / "mask2former" / "__init__.py"
    package.write_text("import a_module_of_theirs\n" + package.read_text())
    result = export(checkout, tmp_path)
    assert result.returncode != 0 and "needs the module 'a_module_of_theirs', see its requirements.txt" in result.stderr


def test_a_folder_that_is_no_checkout_is_an_error(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["official_mask2former.py", str(tmp_path)])
    with pytest.raises(SystemExit):
        tool.main()
    assert f"expected {tmp_path / 'mask2former' / '__init__.py'}" in capsys.readouterr().err


def test_a_gpu_needs_the_compiled_operator(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ModuleNotFoundError, match=r"on cuda .* MultiScaleDeformableAttention: run make\.sh in .*/ops"):
        tool.build(make_checkout(tmp_path), classes=4, device="cuda")


def test_scores_are_compared_with_the_same_weights(tool, tmp_path):
    normalised = ("MODEL.PIXEL_MEAN", [0.0] * 3, "MODEL.PIXEL_STD", [1.0] * 3)
    official, ours = (build_model(tiny_config(*BASELINE, *normalised)).eval() for _ in range(2))
    image = torch.randn(3, 64, 64)
    torch.save({"model": mask2former_state(official)}, tmp_path / tool.WEIGHTS)
    torch.save({"image": image, "scores": tool.scores(official, image)}, tmp_path / tool.SCORES)
    difference, largest = tool.largest_difference(tmp_path, ours)
    assert difference == 0 and largest > 0
    torch.save({"image": image, "scores": tool.scores(official, image) + 0.25}, tmp_path / tool.SCORES)
    assert tool.largest_difference(tmp_path, ours)[0] == pytest.approx(0.25)
