"""Memory of inference on a 4000 x 3000 image, as the growth of a process's peak.

What may grow with classes times pixels is stated by the bounds; no mask of all queries may exist at full size, which
here would take 4.8 GB.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
CLASSES = 8
SCORE_MAPS = CLASSES * 4000 * 3000 * 4 / 2**20  # MiB of one (C, 3000, 4000) float map
OTHER = 640  # MiB for the image as float, its padded copy, and one forward pass

SCRIPT = """
import resource, sys
import mta_clip
import torch
from tiny_models import tiny_model
from mta_clip.modeling.inference import SemanticSegmentorWithTTA

mode = sys.argv[1]
names = ["sky", "car", "tree", "house", "road", "river", "moon", "cat"]
overrides = ["MODEL.PROMPT.CLASS_NAMES", names, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", len(names)]
overrides += ["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 100, "TEST.SEM_SEG.LABEL_MAPS_ONLY", mode == "whole"]
overrides += ["TEST.SLIDING_WINDOW.ENABLED", mode == "windows", "TEST.SLIDING_WINDOW.BATCH", 2]
overrides += ["TEST.SLIDING_WINDOW.SIZE", [512, 512], "TEST.SLIDING_WINDOW.STRIDE", [512, 512]]
model = tiny_model(*overrides).eval()
image = torch.randint(0, 256, (3, 3000, 4000), dtype=torch.uint8)
if mode == "augmented":
    model = SemanticSegmentorWithTTA(model=model, min_sizes=[384, 512], max_size=1024, flip=True)
    inputs = {"image": image}
elif mode == "whole":
    inputs = {"image": image[:, ::4, ::4], "height": 3000, "width": 4000}
else:
    inputs = {"image": image}
model([{"image": image[:, :64, :64], "height": 64, "width": 64}])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(result,) = model([inputs])
assert next(iter(result.values())).shape[-2:] == (3000, 4000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
@pytest.mark.parametrize(
    "mode, bound",
    [("whole", 0.7 * SCORE_MAPS), ("windows", 1.1 * SCORE_MAPS + OTHER), ("augmented", 2.2 * SCORE_MAPS + OTHER)],
    ids=["whole", "windows", "augmented"],
)
def test_peak_on_a_large_image(mode, bound):
    """Label maps of a whole image need no score maps; windows sum into one; augmentation adds one to another."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, mode]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < bound
