"""A segmentation model and data of a few hundred numbers, for tests of the engine in one or several processes."""

import mta_clip  # noqa: F401  # isort: skip  (before detectron2, which it makes importable)

import numpy as np
import torch
from detectron2.data.build import build_batch_data_loader
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from detectron2.utils import comm
from torch import nn

from mta_clip.config import get_cfg
from mta_clip.data.build import SeededMapDataset, TrainingStream
from mta_clip.engine.distributed import unwrap_model
from mta_clip.engine.trainer import Trainer
from mta_clip.modeling import SegmentationModel
from mta_clip.modeling.inference import Scores, WholeScores

NUM_IMAGES = 10
SIDE = 4


@META_ARCH_REGISTRY.register()
class ToySegmentor(SegmentationModel):
    """Two classes from 4x4 images; the loss is a mean over images, so it splits over processes exactly."""

    noise = 0.0

    def __init__(self, cfg) -> None:
        super().__init__(pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3, size_divisibility=1)
        self.backbone = nn.Conv2d(3, 4, 1)
        self.norm = nn.GroupNorm(2, 4)
        self.queries = nn.Embedding(2, 4)
        self.to(cfg.MODEL.DEVICE)

    def forward(self, batch: list[dict], step: list[dict] | None = None):
        logits = self.logits(torch.stack([item["image"] for item in batch]).to(self.queries.weight))
        if not self.training:
            return [{"sem_seg": scores} for scores in logits.softmax(1)]
        labels = torch.stack([item["sem_seg"] for item in batch]).to(logits.device)
        loss = nn.functional.cross_entropy(logits.float(), labels)
        return {"loss_ce": loss, "loss_size": 1e-3 * logits.float().square().mean()}

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.backbone(images))
        if self.training and self.noise:
            features = features + self.noise * torch.randn_like(features)
        return torch.einsum("bdhw,kd->bkhw", features, self.queries.weight)

    def predict(self, images: ImageList) -> list[WholeScores]:
        """For test-time augmentation."""
        return [WholeScores(Scores(scores)) for scores in self.logits(images.tensor).softmax(1)]


@META_ARCH_REGISTRY.register()
class NoisyToySegmentor(ToySegmentor):
    """Draws from torch's generator at every step, as dropout and point sampling do."""

    noise = 0.5


@META_ARCH_REGISTRY.register()
class BreakingToySegmentor(ToySegmentor):
    """Its loss_ce becomes NaN in the fourth step, on the last process only."""

    steps = 0

    def forward(self, batch: list[dict]):
        losses = super().forward(batch)
        self.steps += 1
        if self.steps == 4 and comm.get_rank() == comm.get_world_size() - 1:
            losses["loss_ce"] = losses["loss_ce"] * float("nan")
        return losses


def toy_mapper(item: dict) -> dict:
    """An image that belongs to the index, shifted by an amount of the sample's own random state."""
    image = np.random.default_rng(item["index"]).normal(size=(3, SIDE, SIDE)) + np.random.uniform(-0.5, 0.5)
    image = torch.as_tensor(image, dtype=torch.float32)
    return {"image": image, "sem_seg": (image[0] > image[1]).long(), "index": item["index"]}


class ToyTrainer(Trainer):
    """The real trainer on toy data; `test` draws random numbers, which must not change the training."""

    def build_train_loader(self):
        dataset = SeededMapDataset([{"index": i} for i in range(NUM_IMAGES)], toy_mapper)
        batch = self.cfg.SOLVER.IMS_PER_BATCH
        stream = TrainingStream(size=NUM_IMAGES, seed=self.seed, start=self.start_iter * batch)
        workers = self.cfg.DATALOADER.NUM_WORKERS
        return build_batch_data_loader(dataset, stream, batch, aspect_ratio_grouping=False, num_workers=workers)

    def test(self) -> dict:
        return {"sem_seg": {"mIoU": 50 + torch.rand(()).item()}}


def toy_cfg(output_dir, arch: str = "ToySegmentor", seed: int = 7, num_workers: int = 0, **solver):
    """A frozen config for ToyTrainer; keywords go to SOLVER."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = arch
    cfg.OUTPUT_DIR = str(output_dir)
    cfg.DATALOADER.NUM_WORKERS = num_workers
    cfg.SEED = seed
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.BASE_LR = 0.05
    cfg.SOLVER.MAX_ITER = 8
    cfg.SOLVER.CHECKPOINT_PERIOD = 4
    cfg.SOLVER.LOG_PERIOD = 1
    cfg.DATASETS.TEST = ("toy",)
    cfg.TEST.EVAL_PERIOD = 3
    cfg.SOLVER.merge_from_list([part for pair in solver.items() for part in pair])
    cfg.freeze()
    return cfg


def train_toy(output_dir, *, resume: bool = False, trainer=ToyTrainer, **cfg_changes) -> dict[str, torch.Tensor]:
    """Trains from torch's seed 0 and returns the final weights."""
    torch.manual_seed(0)
    run = trainer(toy_cfg(output_dir, **cfg_changes))
    run.resume_or_load(resume=resume)
    run.train()
    return {name: value.clone() for name, value in unwrap_model(run.model).state_dict().items()}
