"""Files made to do harm, handed to everything that takes a file: nothing of them runs, and nothing leaves its folder.

SECURITY.md lists the readers and what stops each kind; test_config_loader.py hands YAML with tags to all commands.
"""

import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_predictor
import yaml
from checkpoint_files import Trap, write_pickle, write_pickle_4, write_stream, write_torchscript, write_zip
from dataset_files import write_photos
from noise_config import make_noise_config
from PIL import EpsImagePlugin, Image
from saved_models import mta_clip_config, segmenter
from scripts import ROOT, load_script
from tiny_models import save_tiny_bert

import mta_clip
from mta_clip.cli.main import main
from mta_clip.config_loader import load_config
from mta_clip.data import read_image
from mta_clip.data.label_maps import read_stored_labels
from mta_clip.evaluation.predictions import LabelMapWriter
from mta_clip.modeling.clip import CLIPTextEncoder, build_clip
from mta_clip.modeling.clip.visual import build_visual
from mta_clip.serving.requests import Refused, read_job


@pytest.fixture
def ran(tmp_path):
    """The file that each trap would leave behind."""
    return tmp_path / "it_ran"


@pytest.fixture
def refused(ran, caplog, capsys):
    """Checks that a call raises a user's error or returns 1, says something, and that no trap was sprung."""

    def check(call, *said):
        try:
            status = call()
        except (ValueError, KeyError, OSError, RuntimeError) as error:  # CheckpointError is a RuntimeError
            status, message = 1, str(error)
        else:
            message = caplog.text + capsys.readouterr().err
        assert status == 1 and all(text in message for text in said), message
        assert not ran.exists()

    return check


def slip_zip(trap, path):
    """An archive whose entries have names that lead out of any folder."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../it_ran", str(path.parent / "it_ran"), "archive/data.pkl", "archive/version"):
            archive.writestr(name, "3")


def slip_tar(trap, path):
    """The same as a tar archive, which torch read before version 0.4, with a link."""
    with tarfile.open(path, "w") as archive:
        for name in ("../it_ran", str(path.parent / "it_ran"), "sys_info", "pickle"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
        link = tarfile.TarInfo("storages")
        link.type, link.linkname = tarfile.SYMTYPE, "/"
        archive.addfile(link)


WEIGHTS = (write_zip, write_stream, write_pickle, write_pickle_4, write_torchscript, slip_zip, slip_tar)


def checkpoint(folder: Path, ran: Path, write=write_zip, name="evil.pth") -> str:
    path = folder / name
    write({"model": {"weight": Trap(os.system, f"touch {ran}")}}, path)
    return str(path)


def run_of(folder: Path, weights: str) -> str:
    """The folder of a run whose last checkpoint is a file elsewhere."""
    run = folder / "run"
    run.mkdir()
    toy_predictor.make_config(run)
    (run / "last_checkpoint").write_text(weights)
    return str(run)


def toy(folder: Path) -> str:
    (folder / "toy").mkdir()
    return toy_predictor.make_config(folder / "toy")[0]


def tool(name: str, *arguments: str) -> int | None:
    return load_script(f"tools/{name}.py").main(list(arguments))


# What takes a checkpoint, called with a folder and the file.
READERS = {
    "train": lambda d, f: main(["train", "--config-file", str(make_noise_config(d)), "MODEL.WEIGHTS", f]),
    "evaluate": lambda d, f: main(["evaluate", "--config-file", str(make_noise_config(d)), "--weights", f]),
    "evaluate alone": lambda d, f: main(["evaluate", "--weights", f]),
    "predict": lambda d, f: main(["predict", "--config-file", toy(d), "--weights", f, *photos(d)]),
    "predict a run": lambda d, f: main(["predict", "--config-file", run_of(d, f), *photos(d)]),
    "export": lambda d, f: main(["export", "--config-file", toy(d), "--weights", f, "--output", f"{d}/model.pt2"]),
    "info": lambda d, f: main(["info", f]),
    "serve": lambda d, f: main(["serve", "--model", f]),
    "load": lambda d, f: mta_clip.load(f),
    "load a run": lambda d, f: mta_clip.load(run_of(d, f)),
    "load with a config": lambda d, f: mta_clip.load(toy(d), weights=f),
    "predictor": lambda d, f: mta_clip.SegmentationPredictor(load_config(toy(d), ["MODEL.WEIGHTS", f])),
    "analyze_contexts": lambda d, f: tool(
        "analyze_contexts", "--config-file", toy(d), "--weights", f, "--dataset", "x", "--output", str(d / "out")
    ),
    "synonym_benchmark": lambda d, f: tool(
        "synonym_benchmark", "--config-file", str(make_noise_config(d)), "--weights", f, "--output", str(d / "out")
    ),
    "convert_checkpoint": lambda d, f: tool(
        "convert_checkpoint", "--source", "mta-clip", f, str(d / "ours.safetensors")
    ),
    "CLIP.PRETRAINED": lambda d, f: build_clip(name="mta-tiny", pretrained=f),
    "CLIP.IMAGE_PRETRAINED": lambda d, f: build_visual(name="timm:resnet18", pretrained=f, quick_gelu=False),
    "CLIP.TEXT_PRETRAINED": lambda d, f: CLIPTextEncoder(name="mta-tiny", pretrained=f),
}


def photos(folder: Path) -> list[str]:
    return ["--input", str(write_photos(folder / "photos")), "--output", str(folder / "out")]


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_of_checkpoints_runs_a_pickle(reader, tmp_path, ran, refused):
    if reader == "serve":
        pytest.importorskip("litserve")
    weights = checkpoint(tmp_path, ran)
    refused(lambda: READERS[reader](tmp_path, weights), "evil.pth")


@pytest.mark.parametrize("write", WEIGHTS)
@pytest.mark.parametrize("reader", ["load", "CLIP.PRETRAINED", "CLIP.IMAGE_PRETRAINED"])  # three libraries read these
def test_no_kind_of_checkpoint_runs_or_unpacks(reader, write, tmp_path, ran, refused):
    weights = checkpoint(tmp_path, ran, write)
    before = sorted(tmp_path.iterdir())
    refused(lambda: READERS[reader](tmp_path, weights), "evil.pth")
    assert sorted(tmp_path.iterdir()) == before


def test_resume_runs_no_pickle(tmp_path, ran, refused):
    config = make_noise_config(tmp_path)
    assert main(["train", "--config-file", str(config), "SOLVER.MAX_ITER", "2"]) == 0
    checkpoint(tmp_path / "output", ran, name="model_final.pth")
    refused(lambda: main(["train", "--config-file", str(config), "--resume"]), "model_final.pth")


@pytest.mark.parametrize("kind", ["pickle", "remote code"])
def test_no_folder_of_hugging_face_runs_code(kind, tmp_path, ran, refused):
    folder = tmp_path / "bert"
    folder.mkdir()
    save_tiny_bert(folder)
    if kind == "pickle":
        (folder / "model.safetensors").unlink()
        checkpoint(folder, ran, name="pytorch_model.bin")
    else:
        (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
        (folder / "config.json").write_text(json.dumps(config))
    refused(
        lambda: CLIPTextEncoder(name=f"hf:{folder}"),
        "bert could not be loaded",
        "trust" if kind != "pickle" else "run code",
    )


def deep(path):
    path.write_text("[" * 100_000)


def long(path):
    with path.open("wb") as file:
        file.truncate(1 << 34)  # 16 GiB of zeros, which take no space


def deep_yaml(path):
    path.write_text("SEED: " + "[" * 3000)


def bomb(path):
    """Nine lines that stand for 10 ** 9 values."""
    lines = ["a0: &a0 [1]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10))]
    path.write_text("\n".join(lines))


@pytest.mark.parametrize("write", [deep, long])
@pytest.mark.parametrize("name", ["metrics.json", "classes.json"])
def test_json_of_absurd_depth_or_size(name, write, tmp_path, ran, refused):
    folder = segmenter(mta_clip_config()).save(tmp_path / "model")
    write(folder / name)
    refused(lambda: mta_clip.load(folder), f"{name}: this ")
    refused(lambda: main(["info", str(folder)]) if name == "metrics.json" else 1, *([name] * (name == "metrics.json")))


@pytest.mark.parametrize(
    ("reader", "write"),
    [("info", deep_yaml), *((r, bomb) for r in ("train", "predict", "check", "load", "a checkpoint"))],
)
def test_yaml_of_absurd_depth_or_size(reader, write, tmp_path, refused):
    path = tmp_path / "evil.yaml"
    write(path)
    if reader == "a checkpoint":
        torch.save({"model": {"weight": torch.ones(1)}, "config": path.read_text()}, tmp_path / "evil.pth")
    calls = {
        "train": lambda: main(["train", "--config-file", str(path)]),
        "predict": lambda: main(["predict", "--config-file", str(path), *photos(tmp_path)]),
        "check": lambda: main(["check", "x", "--config-file", str(path)]),
        "info": lambda: main(["info", str(path)]),
        "load": lambda: mta_clip.load(path),
        "a checkpoint": lambda: mta_clip.load(tmp_path / "evil.pth"),
    }
    refused(calls[reader], "evil.", "nested too deeply" if write is deep_yaml else "aliases")


def postscript(path, ran):
    """PostScript under the name of a PNG, which Pillow hands to Ghostscript."""
    path.write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(it_ran) (w) file closefile\nshowpage\n"
    )


def pixels(path, ran):
    """A PNG of a few bytes that claims 10 ** 10 pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"0" * 99))]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def pickled(path, ran):
    checkpoint(path.parent, ran, write_pickle, path.name)


@pytest.fixture
def ghostscript(tmp_path, ran, monkeypatch):
    """A `gs` on PATH that leaves the mark."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "gs"
    script.write_text(f"#!/bin/sh\n[ \"$1\" = --version ] || touch '{ran}'\necho 10\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow looks for it once


@pytest.mark.usefixtures("ghostscript")
@pytest.mark.parametrize("write", [postscript, pixels, pickled])
def test_images(write, tmp_path, ran, refused):
    path = tmp_path / "photos" / "evil.png"
    path.parent.mkdir()
    write(path, ran)
    refused(lambda: read_image(path), "evil.png")
    refused(lambda: read_stored_labels(path), "evil.png")
    refused(lambda: segmenter(mta_clip_config())(path), "evil.png")
    with pytest.raises(Refused, match=r"(?i)image"):
        read_job(path.read_bytes(), max_pixels=10**12)
    command = ["predict", "--config-file", toy(tmp_path), "--weights", str(tmp_path / "toy" / "model.pth")]
    refused(lambda: main([*command, "--input", str(path), "--output", str(tmp_path / "out")]), "evil.png")


@pytest.mark.usefixtures("ghostscript")
@pytest.mark.parametrize("write", [postscript, pixels, pickled])
@pytest.mark.parametrize("folder", ["images", "labels"])
def test_images_of_datasets(write, folder, tmp_path, ran, refused):
    config = make_noise_config(tmp_path)
    write(tmp_path / folder / "3.png", ran)
    refused(lambda: main(["check", "noise", "--config-file", str(config), "--output", str(tmp_path / "out")]))
    refused(lambda: main(["train", "--config-file", str(config)]), "3.png")


def test_the_trap_of_images_works(tmp_path, ran, ghostscript):
    postscript(tmp_path / "a.png", ran)
    with Image.open(tmp_path / "a.png") as image, pytest.raises(OSError):
        image.load()
    assert ran.exists()


@pytest.mark.parametrize("name", ["../../x.png", "/etc/x.png", "C:\\x.png", "C:x.png", "..", "a\0b.png"])
def test_saved_predictions_stay_in_their_folder(name, tmp_path):
    folder = tmp_path / "deep" / "er" / "out"
    writer = LabelMapWriter(folder=folder, images=[name, "other/y.png"])
    try:
        writer.write(name, np.zeros((2, 3), np.uint8))
    except ValueError as error:
        assert "null" in str(error)  # no file has such a name
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == ("\0" not in name) and all(path.is_relative_to(folder) for path in written)


def test_lists_of_names_stay_in_their_folder(tmp_path, refused):
    dataset = tmp_path / "benchmark_RELEASE" / "dataset"
    lists = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    for folder in (dataset, lists):
        folder.mkdir(parents=True)
        for split in ("train", "val"):
            (folder / f"{split}.txt").write_text("a\n" if folder is lists else "../../../../it_ran\n")
    prepare = load_script("datasets/prepare_voc2012.py")
    refused(
        lambda: prepare.run_script("", prepare.prepare, ["--root", str(tmp_path), "--workers", "1"]), "leads out of"
    )


def test_nothing_unpacks_archives():
    """Archives are read entry by entry (checkpoints, wheels), and unpacked by the user, with a tool of his choice."""
    files = [
        *ROOT.glob("*.py"),
        *(path for name in ("mta_clip", "datasets", "tools") for path in (ROOT / name).rglob("*.py")),
    ]
    unpack = ("extractall(", ".extract(", ".extractfile(", "unpack_archive(")
    assert [path.name for path in files if any(word in path.read_text() for word in unpack)] == []


def test_nothing_else_could_run_code():
    """Each function that runs what a file says is called nowhere, or in the one place that makes it safe."""
    allowed = {
        "pickle.load": set(),
        "weights_only=False": {"readers.py"},  # in the text of a message
        "allow_pickle=True": set(),
        "jit.load(": set(),
        "trust_remote_code=True": set(),
        "shell=True": set(),
        "Image.open(": {"image_files.py", "kill_evidence.py", "serve_benchmark.py"},  # those two read what they made
        "os.system(": set(),
        " eval(": set(),
    }
    files = [
        *ROOT.glob("*.py"),
        *(path for name in ("mta_clip", "datasets", "tools") for path in (ROOT / name).rglob("*.py")),
    ]
    for call, where in allowed.items():
        assert {path.name for path in files if call in path.read_text()} == where, call


def test_other_lists_of_yaml(tmp_path, ran, refused):
    path = tmp_path / "evil.yaml"
    path.write_text(f"a: !!python/object/apply:os.system ['touch {ran}']\n")
    with pytest.raises(yaml.YAMLError):
        tool("run_experiments", "--list", str(path), "--set", "a", "--table")
    with pytest.raises(yaml.YAMLError):
        load_script("tools/synonym_benchmark.py").read_synonyms(path, ["a"])
    with pytest.raises(SystemExit):
        main(["check", "--data", str(tmp_path), "--label-map", path.read_text()])
    assert not ran.exists()
