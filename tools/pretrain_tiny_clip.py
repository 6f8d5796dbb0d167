#!/usr/bin/env python
"""Trains a tiny CLIP, image and text tower, from scratch and contrastively on captioned crops of the shapes dataset.

    python tools/pretrain_tiny_clip.py --output output/tiny_clip/mta-tiny-vit.pth

Zero-shot segmentation needs text features that mean something for classes without labels. The held-out classes
(DATASETS.UNSEEN_CLASSES of the config) are neither drawn nor named here; CLIP learns what their words mean in other
combinations. The result is a file for MODEL.CLIP.PRETRAINED. It takes minutes on two cores.

With --crops 0 no crop is seen twice; more steps then teach more, and held-out combinations are recognised, too.

With --synonyms, every word of a caption is replaced by its synonym (mta_clip/data/datasets/shapes.py) half of the time,
so that the text tower also knows classes by names that segmentation is not trained with.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from mta_clip.config import get_cfg
from mta_clip.config_loader import load_config
from mta_clip.data.datasets.shapes import SYNONYMS, all_names, parse_name, render_crop, synonym_of
from mta_clip.modeling.clip import build_clip

TEMPLATE = "a photo of a {}."  # the same as in segmentation
CROP = 48  # pixels; objects in it are about as large as in the scenes


@dataclass(frozen=True)
class Caption:
    """A text and what it says about an object; None = it does not say."""

    text: str
    texture: str | None
    color: str | None
    shape: str | None

    def holds_for(self, other: "Caption") -> bool:
        """Whether this caption is true of every object that the other one is true of."""
        return all(
            mine is None or mine == theirs
            for mine, theirs in zip(
                (self.texture, self.color, self.shape), (other.texture, other.color, other.shape), strict=True
            )
        )


def captions_of(name: str) -> list[Caption]:
    """Captions of one object or ground: the complete one first, then shorter ones.

    A name without a texture word means plain texture, as in the class names of the dataset.
    """
    try:
        texture, color, shape = parse_name(name)
    except ValueError:  # a ground
        return [Caption(name, name, name, name)]
    captions = [
        Caption(name, texture, color, shape),
        Caption(f"{color} thing", None, color, None),
        Caption(shape, None, None, shape),
    ]
    if texture:
        captions += [
            Caption(f"{texture} thing", texture, None, None),
            Caption(f"{texture} {color} thing", texture, color, None),
            Caption(f"{texture} {shape}", texture, None, shape),
        ]
    return captions


def reworded(text: str) -> str:
    """A text with about half of its words, chosen at random, replaced by synonyms."""
    return " ".join(SYNONYMS.get(word, word) if torch.rand(()) < 0.5 else word for word in text.split())


def draw(names: list[str], per_name: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draws crops (n, 3, CROP, CROP) uint8, and returns them with the index of each one's name, (n,)."""
    samples = [(i, seed * 1_000_000 + i * per_name + k) for i in range(len(names)) for k in range(per_name)]
    crops = [render_crop(names[i], seed=s, size=CROP)[0] for i, s in tqdm(samples, "crops", disable=None)]
    return torch.stack(crops), torch.tensor([i for i, _ in samples])


def batches(names: list[str], size: int, per_name: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless random batches as of `draw`, from `per_name` crops of each name; if that is 0, each crop occurs once."""
    if per_name:
        crops, labels = draw(names, per_name, seed)
    for step in itertools.count():
        if per_name:
            chosen = torch.randint(len(crops), (size,))
            yield crops[chosen], labels[chosen]
        else:
            chosen = torch.randint(len(names), (size,))
            first = 10**12 * (seed + 1) + step * size  # beyond the seeds of `draw`
            drawn = [render_crop(names[i], seed=first + k, size=CROP)[0] for k, i in enumerate(chosen.tolist())]
            yield torch.stack(drawn), chosen


class Trainer:
    """Contrastive training of the texts of a batch against its crops; all true pairs are positives.

    Args:
        model: the CLIP to train.
        names: of what crops show.
        steps: training steps, which the learning-rate schedule spans.
        learning_rate: peak of the schedule.
        device: to train on.
        synonyms: replace about half of the words of captions by synonyms.
    """

    def __init__(
        self,
        model: nn.Module,
        names: list[str],
        steps: int,
        learning_rate: float,
        device: str,
        synonyms: bool = False,
    ):
        cfg = get_cfg()
        self.mean = torch.tensor(cfg.MODEL.PIXEL_MEAN, device=device).view(3, 1, 1)
        self.std = torch.tensor(cfg.MODEL.PIXEL_STD, device=device).view(3, 1, 1)
        self.model, self.device = model.to(device), device
        self.names, self.synonyms = names, synonyms
        self.captions = [captions_of(name) for name in names]
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.05, fused=True)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=learning_rate, total_steps=steps, pct_start=0.1
        )
        self.tokenizer = open_clip.get_tokenizer("mta-tiny-vit")

    def encode_images(self, crops: Tensor) -> Tensor:
        """Features (B, D) of L2 norm 1; crops get random positions in the tower's larger grid, so these mean little."""
        visual = self.model.visual
        patches = visual.conv1((crops.to(self.device).float() - self.mean) / self.std)
        side = patches.shape[-1]
        table = visual.positional_embedding
        grid = table[1:].view(*visual.grid_size, -1)
        top, left = (int(torch.randint(extent - side + 1, ())) for extent in visual.grid_size)
        positions = grid[top : top + side, left : left + side].flatten(0, 1)
        class_token = (visual.class_embedding + table[0]).expand(len(crops), 1, -1)
        tokens = torch.cat([class_token, patches.flatten(2).transpose(1, 2) + positions], dim=1)
        tokens = visual.transformer(visual.ln_pre(tokens))
        return F.normalize(visual.ln_post(tokens[:, 0]) @ visual.proj, dim=-1)

    def encode_texts(self, texts: list[str]) -> Tensor:
        """Features of L2 norm 1, one row per text."""
        tokens = self.tokenizer([TEMPLATE.format(text) for text in texts]).to(self.device)
        return self.model.encode_text(tokens, normalize=True)

    def step(self, crops: Tensor, labels: Tensor) -> float:
        """Trains on a batch of crops and returns the loss."""
        if torch.rand(()) < 0.5:
            crops = crops.flip(-1)
        crops = crops.rot90(int(torch.randint(4, ())), (-2, -1))
        captions = []
        for label in labels.tolist():  # every second text is the complete one
            options = self.captions[label]
            captions.append(options[0] if torch.rand(()) < 0.5 else options[int(torch.randint(len(options), ()))])
        full = [self.captions[label][0] for label in labels.tolist()]
        truth = torch.tensor([[c.holds_for(f) for c in captions] for f in full], device=self.device).float()
        worded = [reworded(caption.text) if self.synonyms else caption.text for caption in captions]
        texts = sorted(set(worded))
        features = self.encode_texts(texts)[[texts.index(text) for text in worded]]
        logits = self.model.logit_scale.exp() * self.encode_images(crops) @ features.T
        loss = (_cross_entropy(logits, truth) + _cross_entropy(logits.T, truth.T)) / 2
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.model.logit_scale.data.clamp_(max=4.6052)  # 100, as in CLIP
        return loss.item()

    @torch.no_grad()
    def accuracy(self, crops: Tensor, wanted: list[str], names: list[str]) -> float:
        """Percentage of crops whose nearest name among `names` is the wanted one."""
        nearest = (self.encode_images(crops) @ self.encode_texts(names).T).argmax(1)
        return 100 * sum(names[i] == name for i, name in zip(nearest.tolist(), wanted, strict=True)) / len(wanted)


def _cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    return -(logits.log_softmax(1) * truth / truth.sum(1, keepdim=True)).sum(1).mean()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/tiny_clip/mta-tiny-vit.pth"))
    parser.add_argument("--config-file", default="configs/shapes/tagclip_inductive.yaml", help="says what to hold out")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--crops", type=int, default=150, help="crops per name; 0: every step draws new ones")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--synonyms", action="store_true", help="captions also use synonyms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    held_out = load_config(args.config_file, []).DATASETS.UNSEEN_CLASSES
    torch.manual_seed(args.seed)
    names = [name for name in all_names() if name not in held_out]
    model = build_clip(name="mta-tiny-vit", quick_gelu=True)
    trainer = Trainer(model, names, args.steps, args.learning_rate, args.device, args.synonyms)
    progress = tqdm(range(args.steps), "pretraining", disable=None)
    for _, (crops, labels) in zip(progress, batches(names, args.batch, args.crops, 2 * args.seed), strict=False):
        progress.set_postfix(loss=f"{trainer.step(crops, labels):.3f}")
    for kind, tested in (("seen", names), ("held out", held_out)):
        fresh, indices = draw(tested, 20, seed=2 * args.seed + 1)
        accuracy = trainer.accuracy(fresh, [tested[i] for i in indices], all_names())
        print(f"{kind} combinations: {accuracy:.1f} % of fresh crops nearest to their name among {len(all_names())}")
        if args.synonyms:
            others = [synonym_of(name) for name in all_names()]
            accuracy = trainer.accuracy(fresh, [synonym_of(tested[i]) for i in indices], others)
            print(f"{kind} combinations: {accuracy:.1f} % nearest to the synonym of their name")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: value.cpu() for name, value in model.state_dict().items()}, args.output)
    print(f"MODEL.CLIP.PRETRAINED {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
