import json
import logging
import sys

import pytest
import torch
from exported import torch_runner
from torch import nn

from mta_clip.export.formats import EXTRAS, quiet_exporters, require_format, write_graph


class Sum(nn.Module):
    def forward(self, images):
        return images.float().sum((1, 2, 3))


@pytest.fixture
def program():
    return torch.export.export(Sum(), (torch.zeros(2, 3, 4, 5),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))


def write(name, program, path):
    return write_graph(name, program, path, {"class_names": ["Straße"]}, inputs=["images"], outputs=["scores"])


def test_torch_files_have_a_description_beside_them(program, tmp_path):
    path = tmp_path / "new" / "sum.pt2"
    assert write("torch", program, path) == [path, path.with_suffix(".json")]
    described = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert described == {"class_names": ["Straße"], "inputs": ["images"], "outputs": ["scores"]}
    assert torch_runner(path)(torch.ones(3, 3, 4, 5))[0].tolist() == [60, 60, 60]


def test_onnx_files_describe_themselves(program, tmp_path):
    for module in ("onnx", "onnxscript"):
        pytest.importorskip(module, reason="pip install 'mta-clip[onnx]'")
    import onnx

    assert write("onnx", program, tmp_path / "sum.onnx") == [tmp_path / "sum.onnx"]
    model = onnx.load(tmp_path / "sum.onnx")
    assert {p.key: json.loads(p.value) for p in model.metadata_props} == {"class_names": ["Straße"]}
    images, scores = model.graph.input[0], model.graph.output[0]
    assert (images.name, scores.name) == ("images", "scores")
    assert [side.dim_param or side.dim_value for side in images.type.tensor_type.shape.dim] == ["batch", 3, 4, 5]
    assert [side.dim_param for side in scores.type.tensor_type.shape.dim] == ["batch"]
    assert list(tmp_path.iterdir()) == [tmp_path / "sum.onnx"]


def test_openvino_files_have_a_description_beside_them(program, tmp_path):
    for module in EXTRAS["openvino"]:
        pytest.importorskip(module, reason="pip install 'mta-clip[openvino]'")
    files = write("openvino", program, tmp_path / "new" / "sum.xml")
    assert [file.name for file in files] == ["sum.xml", "sum.bin", "sum.json"] and all(f.is_file() for f in files)
    assert json.loads(files[-1].read_text(encoding="utf-8"))["class_names"] == ["Straße"]


@pytest.mark.parametrize(("name", "module"), [("onnx", "onnxscript"), ("openvino", "openvino")])
def test_a_missing_library_names_its_extra(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", sys)  # there
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"the format {name} needs {module}, .*pip install 'mta-clip\[{name}\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        require_format(name, {"onnx": "model.onnx", "openvino": "model.xml"}[name])


def test_wrong_formats_are_refused():
    with pytest.raises(ValueError, match="unknown format 'tflite': one of onnx, torch, openvino"):
        require_format("tflite", "model.tflite")
    with pytest.raises(ValueError, match=r"model\.pt: a file of format torch ends in \.pt2"):
        require_format("torch", "model.pt")


def test_only_warnings_of_exporters_are_hidden(caplog):
    with caplog.at_level(logging.WARNING), quiet_exporters():
        logging.getLogger("onnxscript.optimizer").warning("hidden")
        logging.getLogger("onnxscript").error("an error")
        logging.getLogger("mta_clip").warning("ours")
    logging.getLogger("onnxscript").warning("later")
    assert [record.message for record in caplog.records] == ["an error", "ours", "later"]
