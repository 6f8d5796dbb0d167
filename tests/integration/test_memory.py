"""Memory of inference on a 4000 x 3000 image, as the growth of a process's peak.

Label maps must not need a score map, nor score maps a second one. A mask of all queries at full size, which no mode may
hold either, would take 4.8 GB.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
CLASSES = 40
SCORE_MAPS = CLASSES * 4000 * 3000 * 4 / 2**20  # MiB of one (C, 3000, 4000) float map: 1831
# MiB of everything else. All: labels, 92, and strips. Windows: the image as float and its padded copy, 275, a band of
# 512 rows, 313, and two windows' scores, 84. Augmented: maps of two sizes and of a mirror image, at most 240.
REST = {"whole": 300, "windows": 1000, "augmented": 600}

SCRIPT = """
import resource, sys
import mta_clip
import torch
from tiny_models import tiny_model
from mta_clip.modeling.inference import AugmentedModel

mode, label_maps_only, num_classes = sys.argv[1], sys.argv[2] == "labels", int(sys.argv[3])
names = [f"thing {i}" for i in range(num_classes)]
overrides = ["MODEL.PROMPT.CLASS_NAMES", names, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", num_classes]
overrides += ["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 100, "TEST.SEM_SEG.LABEL_MAPS_ONLY", label_maps_only]
overrides += ["TEST.SLIDING_WINDOW.ENABLED", mode == "windows", "TEST.SLIDING_WINDOW.BATCH", 2]
overrides += ["TEST.SLIDING_WINDOW.SIZE", [512, 512], "TEST.SLIDING_WINDOW.STRIDE", [512, 512]]
model = tiny_model(*overrides).eval()
if mode == "augmented":
    model = AugmentedModel(model=model, min_sizes=[384, 512], max_size=1024, flip=True)
model([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "height": 64, "width": 64}])
image = torch.randint(0, 256, (3, 3000, 4000), dtype=torch.uint8)
if mode == "whole":
    image = image[:, ::4, ::4].contiguous()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(result,) = model([{"image": image, "height": 3000, "width": 4000}])
assert result.keys() == ({"labels", "label_scores"} if label_maps_only else {"sem_seg"})
assert next(iter(result.values())).shape[-2:] == (3000, 4000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
@pytest.mark.parametrize("mode", REST)
@pytest.mark.parametrize("output, score_maps", [("labels", 0), ("scores", 1)])
def test_peak_on_a_large_image(mode, output, score_maps):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TESTS / "support"), str(TESTS.parent)]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, mode, output, str(CLASSES)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < score_maps * SCORE_MAPS + REST[mode]
