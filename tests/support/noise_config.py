"""A toy model and a folder of noise as a config file, for tests of commands."""

from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from toy_training import SIDE


def make_noise_config(folder: Path) -> Path:
    """A config with six images of noise whose labels the toy model can learn: is there more red than green?"""
    generator = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for i in range(6):
        image = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        Image.fromarray((image[..., 0] > image[..., 1]).astype(np.uint8)).save(folder / "labels" / f"{i}.png")
    entry = {
        "name": "noise",
        "image_dir": str(folder / "images"),
        "label_dir": str(folder / "labels"),
        "classes": ["green", "red"],
    }
    config = {
        "MODEL": {"META_ARCHITECTURE": "ToySegmentor", "DEVICE": "cpu", "SEM_SEG_HEAD": {"NUM_CLASSES": 2}},
        "DATASETS": {"FOLDERS": [entry], "TRAIN": ["noise"], "TEST": ["noise"]},
        "INPUT": {"MIN_SIZE_TRAIN": [SIDE], "MIN_SIZE_TEST": SIDE, "CROP": {"ENABLED": False}},
        "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 4, "CHECKPOINT_PERIOD": 2, "BASE_LR": 0.05},
        "TEST": {"EVAL_PERIOD": 3},
        "DATALOADER": {"NUM_WORKERS": 0},
        "SEED": 3,
        "OUTPUT_DIR": str(folder / "output"),
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
