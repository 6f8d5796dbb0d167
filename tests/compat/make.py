"""Writes the runs that later versions must still read: `python tests/compat/make.py tests/compat/0.1`.

Run it once with each released version, and never again for it. Each run is config.yaml, last_checkpoint, scores.npz (of
the first photo) and model_final.pth.gz; the text tower's table of tokens is zero where no class name needs it, so that
the file compresses.
"""

import contextlib
import gzip
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
import yaml
from PIL import Image

import mta_clip
from mta_clip.cli.main import main

HERE = Path(__file__).parent
NAMES = ["red car", "sky; cloud", "tree"]
TABLE = "token_embedding.weight"

_SIZES = {
    "MASK_FORMER": {"HIDDEN_DIM": 16, "NHEADS": 2, "DIM_FEEDFORWARD": 16, "DEC_LAYERS": 3, "NUM_OBJECT_QUERIES": 6}
    | {"TRAIN_NUM_POINTS": 32},
    "SEM_SEG_HEAD": {"CONVS_DIM": 16, "MASK_DIM": 16, "NORM_GROUPS": 4, "TRANSFORMER_ENC_LAYERS": 1}
    | {"TRANSFORMER_ENC_DIM_FEEDFORWARD": 16, "DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": 2},
}
MODELS = {
    "mta_clip": _SIZES | {"CLIP": {"NAME": "compat-resnet"}, "MTA": {"CLASSIFIER": "ensemble"}},
    "mask2former": _SIZES
    | {"CLIP": {"NAME": "compat-resnet"}, "PROMPT": {"NAME": ""}}
    | {"MASK_FORMER": _SIZES["MASK_FORMER"] | {"TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder"}},
    "tagclip": {
        "META_ARCHITECTURE": "TagCLIP",
        "BACKBONE": {"NAME": "PromptedImageEncoder"},
        "SEM_SEG_HEAD": {"NAME": "TrustyHead"},
        "CLIP": {"NAME": "compat-vit"},
        "TAGCLIP": {"NUM_PROMPTS": 2, "IMAGE_SIZE": [32, 32], "NHEADS": 2, "DEC_LAYERS": 2},
    },
}


def config(model: str) -> dict:
    """The config of a run, with paths from the folder of the version."""
    chosen = MODELS[model]
    clip = {"PRETRAINED": "", "QUICK_GELU": False} | chosen["CLIP"]
    photos = {"name": "compat_photos", "image_dir": "images", "label_dir": "labels", "classes": NAMES}
    return {
        "MODEL": chosen | {"DEVICE": "cpu", "CLIP": clip},
        "DATASETS": {"FOLDERS": [photos], "TRAIN": ["compat_photos"], "TEST": []}
        | ({"UNSEEN_CLASSES": NAMES[2:]} if model == "tagclip" else {}),
        "INPUT": {"MIN_SIZE_TRAIN": [32], "MIN_SIZE_TEST": 32, "CROP": {"SIZE": [32, 32]}},
        "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 2, "BASE_LR": 0.01, "CHECKPOINT_PERIOD": 100},
        "DATALOADER": {"NUM_WORKERS": 0},
        "SEED": 1,
        "OUTPUT_DIR": model,
    }


def write_photos() -> None:
    """Two photos of noise, whose labels are the brightest channel."""
    generator = np.random.default_rng(0)
    for name in ("0.png", "1.png"):
        image = np.kron(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
        for folder, pixels in (("images", image), ("labels", image.argmax(-1).astype(np.uint8))):
            Path(folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(Path(folder, name))


def shrink(checkpoint: Path) -> None:
    """Replaces a checkpoint by its compressed form, without the tokens that nothing needs."""
    content = torch.load(checkpoint, weights_only=True)
    words = " ".join(name.replace(";", " ") for name in NAMES) + " none a photo of a ."
    needed = open_clip.get_tokenizer("ViT-B-32")([words]).unique()
    for name, value in content["model"].items():
        if name.endswith(TABLE):
            unused = torch.ones(len(value), dtype=torch.bool)
            unused[needed] = False
            value[unused] = 0
    torch.save(content, checkpoint)


def make(version: str) -> None:
    Path(version).mkdir()
    with contextlib.chdir(version):
        write_photos()
        for model in MODELS:
            Path(model).mkdir()
            file = Path(model, "given.yaml")
            file.write_text(yaml.safe_dump(config(model)))
            if main(["train", "--config-file", str(file)]):
                raise SystemExit(f"{model} could not be trained")
            final = Path(model, "model_final.pth")
            before = mta_clip.load(model)("images/0.png").scores
            shrink(final)
            scores = mta_clip.load(model)("images/0.png").scores
            if not np.array_equal(before, scores):
                raise SystemExit(f"{model}: tokens are missing that its names need")
            np.savez_compressed(Path(model, "scores.npz"), scores=scores)
            Path(f"{final}.gz").write_bytes(gzip.compress(final.read_bytes(), 9, mtime=0))
            kept = ("config.yaml", "last_checkpoint", "scores.npz", f"{final.name}.gz")
            for path in Path(model).iterdir():
                if path.name not in kept:
                    path.unlink()


if __name__ == "__main__":
    open_clip.add_model_config(HERE / "model_configs")
    make(sys.argv[1])
