"""What the stages of tools/gpu_campaign.py measure, and at which sizes: on a GPU, and in a rehearsal on the CPU."""

import os
from dataclasses import dataclass

GPU_LOST = 75  # exit status of a stage: what has failed broke its process's connection to the GPU


@dataclass(frozen=True)
class Plan:
    """What is measured, and at which sizes."""

    device: str
    models: tuple[str, ...]  # configs, of which each takes a step
    side: int | None  # of their images, pixels; None = as configured
    tests: tuple[str, ...]  # files; () = all that have such tests
    inference: tuple[tuple[int, int], ...]  # (side, batch) of images
    sampling: tuple[tuple[int, int], ...]  # the same
    dtypes: tuple[str, ...]
    compiled: tuple[tuple[int, int, str], ...]  # (side, batch, dtype)
    training: tuple[tuple[int, int, str], ...]  # the same
    warm_up: int  # runs before those that count
    rounds: int
    classes: int
    photos: int
    photo_size: tuple[int, int]  # width, height
    workers: tuple[int, ...]  # processes that load data
    camvid: str  # config
    camvid_options: tuple[str, ...]
    probe_iterations: int  # that tell how long an iteration takes; times are logged every 20
    most_iterations: int


CORES = len(os.sched_getaffinity(0))
ON_A_GPU = Plan(
    device="cuda",
    models=(
        "ade20k/mta_clip_rn50",
        "ade20k/mask2former_r50",
        "voc2012/tagclip_inductive",
        "ade20k/mta_clip_vit_b16",
        "ade20k/mta_clip_convnext_base",
        "ade20k/mask2former_swin_tiny",
        "voc2012/zegclip_inductive",
        "ade20k/mta_clip_rn50_published",
        "shapes/mta_clip_tiny",
    ),
    side=None,
    tests=(),
    inference=((512, 1), (512, 8), (1024, 1), (1024, 8)),
    sampling=((512, 1), (512, 8), (1024, 1), (1024, 8)),
    dtypes=("float32", "bfloat16", "tf32", "float16"),
    compiled=((512, 1, "bfloat16"), (512, 8, "bfloat16"), (512, 1, "float32"), (1024, 8, "bfloat16")),
    training=((512, 8, "bfloat16"), (512, 8, "float16"), (512, 8, "float32"), (512, 8, "tf32"), (512, 2, "bfloat16")),
    warm_up=3,
    rounds=10,
    classes=150,
    photos=64,
    photo_size=(683, 512),
    workers=tuple(dict.fromkeys((CORES, max(CORES // 2, 1), 4, 1))),
    camvid="camvid/mta_clip_rn50",
    camvid_options=("DATALOADER.NUM_WORKERS", str(CORES)),
    probe_iterations=40,
    most_iterations=10_000,
)
TINY = ("INPUT.CROP.SIZE", "(64, 64)", "INPUT.MIN_SIZE_TRAIN", "(64, 64)", "INPUT.MIN_SIZE_TEST", "64")
REHEARSAL = Plan(
    device="cpu",
    models=("shapes/mta_clip_tiny", "shapes/mask2former_tiny", "shapes/tagclip_inductive"),
    side=64,
    tests=("tests/modeling/test_head.py",),
    inference=((64, 2),),
    sampling=((32, 1),),  # Triton's interpreter is slow
    dtypes=("float32", "tf32", "bfloat16"),
    compiled=(),
    training=((64, 1, "bfloat16"),),
    warm_up=0,
    rounds=1,
    classes=5,
    photos=6,
    photo_size=(90, 70),
    workers=(0,),
    camvid="camvid/mta_clip_small",
    camvid_options=(*TINY, "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu"),
    probe_iterations=20,
    most_iterations=5,
)
