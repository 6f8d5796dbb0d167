"""CLIP ViT with deep visual prompts: only the prompts learn, the tower is frozen [VPT, ECCV 2022; TagCLIP's code].

Shapes: B images, E token width, Dt width of text features (CLIP's joint space), V prompts per block, H and W = padded
images, h and w = patch grid (H and W divided by the patch size, rounded down).
"""

import math
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from ..clip import build_visual, image_tower_settings, resize_positions


class VisualPrompts(nn.Module):
    """V learned tokens per block, passed through one shared projection and dropout.

    Args:
        num_prompts: V.
        num_blocks: number of blocks of the tower.
        width: E.
        patch_size: side of the tower's patches in pixels; determines the initial range, as in VPT.
        dropout: probability for the projected prompts, in [0, 1]; drawn for each image.
    """

    def __init__(self, *, num_prompts: int, num_blocks: int, width: int, patch_size: int, dropout: float = 0.1):
        super().__init__()
        self.first = nn.Parameter(torch.empty(1, num_prompts, width))
        self.deeper = nn.Parameter(torch.empty(num_blocks - 1, num_prompts, width))
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        # Xavier bound of a layer from the 3 * patch_size**2 values of a patch to E
        bound = math.sqrt(6 / (3 * patch_size**2 + width))
        nn.init.uniform_(self.first, -bound, bound)
        nn.init.uniform_(self.deeper, -bound, bound)
        nn.init.kaiming_normal_(self.proj.weight, a=0, mode="fan_out")

    def forward(self, block: int, batch: int) -> Tensor:
        """Prompt tokens (B, V, E) for block number `block`, counted from 0, and `batch` = B images."""
        prompts = self.first if block == 0 else self.deeper[block - 1 : block]
        return self.dropout(self.proj(prompts).expand(batch, -1, -1))


@BACKBONE_REGISTRY.register()
class PromptedImageEncoder(Backbone):
    """A frozen ViT with learned prompts; computes an image token and a patch map, both in CLIP's joint space.

    Args:
        visual: open_clip's ViT with one class token and a projection to the joint space; it is frozen here.
        num_prompts: V, at least 1; prompts lie between the class token and the patches and are replaced before each
            block.
        image_size: height and width in pixels, normally the training crop; the position table is resized to it once,
            and tables for other image sizes are resized from that one.
        double_class_embedding: adds the class embedding to the class token twice, as the released code does and its
            checkpoints need; False adds it once, as in CLIP.
        dropout: probability for the prompts, in [0, 1].

    Raises:
        ValueError: the tower is not such a ViT, or `num_prompts` is below 1; see also `resize_positions`.
    """

    @configurable
    def __init__(
        self,
        *,
        visual: VisionTransformer,
        num_prompts: int,
        image_size: Sequence[int],
        double_class_embedding: bool = True,
        dropout: float = 0.1,
    ):
        super().__init__()
        _check_tower(visual)
        if num_prompts < 1:
            raise ValueError(
                f"MODEL.TAGCLIP.NUM_PROMPTS must be at least 1, got {num_prompts}: the encoder learns only prompts"
            )
        self.num_prompts = num_prompts
        self.patch_size = int(visual.patch_size[0])
        self.grid = (image_size[0] // self.patch_size, image_size[1] // self.patch_size)
        table = resize_positions(visual.positional_embedding.detach(), visual.grid_size, self.grid)
        visual.positional_embedding = nn.Parameter(table.clone())
        self.visual = visual.requires_grad_(False)
        width = visual.conv1.out_channels
        self.prompts = VisualPrompts(
            num_prompts=num_prompts,
            num_blocks=len(visual.transformer.resblocks),
            width=width,
            patch_size=self.patch_size,
            dropout=dropout,
        )
        self.prompt_norm = nn.LayerNorm(width, eps=1e-6)
        self.double_class_embedding = double_class_embedding

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec | None = None) -> dict:
        """Constructor arguments from a config; `input_shape` is not used."""
        node = cfg.MODEL.TAGCLIP
        return {
            "visual": build_visual(**image_tower_settings(cfg)),
            "num_prompts": node.NUM_PROMPTS,
            "image_size": node.IMAGE_SIZE,
            "double_class_embedding": node.DOUBLE_CLASS_EMBEDDING,
            "dropout": node.DROPOUT,
        }

    @property
    def size_divisibility(self) -> int:
        """See Backbone."""
        return self.patch_size

    def output_shape(self) -> dict[str, ShapeSpec]:
        """See Backbone. Channels and stride of the patch map."""
        return {"patch_map": ShapeSpec(channels=self.visual.proj.shape[1], stride=self.patch_size)}

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes images of at least one patch.

        Args:
            images: (B, 3, H, W), normalised; pixels beyond the last whole patch are dropped.

        Returns:
            Image token (B, Dt) and patch map (B, Dt, h, w), both with unit L2 norm over Dt.
        """
        tokens, grid = self._embed(images)
        for index, block in enumerate(self.visual.transformer.resblocks):
            prompts = self.prompts(index, images.shape[0]).to(tokens.dtype)
            first_patch = 1 if index == 0 else 1 + self.num_prompts
            tokens = block(torch.cat([tokens[:, :1], prompts, tokens[:, first_patch:]], dim=1))
        tokens = self.visual.ln_post(self.prompt_norm(tokens))
        image_token = tokens[:, 0] @ self.visual.proj
        patches = tokens[:, 1 + self.num_prompts :] @ self.visual.proj
        patch_map = patches.transpose(1, 2).unflatten(2, grid)
        return F.normalize(image_token, dim=-1), F.normalize(patch_map, dim=1)

    def _embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Class and patch tokens with positions, (B, 1 + h * w, E), and the grid (h, w)."""
        patches = self.visual.conv1(images)
        grid = tuple(patches.shape[-2:])
        positions = resize_positions(self.visual.positional_embedding, self.grid, grid)
        class_token = self.visual.class_embedding * (2 if self.double_class_embedding else 1)
        tokens = torch.cat(
            [
                (class_token + positions[0]).to(patches.dtype).expand(images.shape[0], 1, -1),
                patches.flatten(2).transpose(1, 2) + positions[1:].to(patches.dtype),
            ],
            dim=1,
        )
        return self.visual.ln_pre(tokens), grid


def _check_tower(visual: nn.Module) -> None:
    if not isinstance(visual, VisionTransformer):
        raise ValueError(
            f"TagCLIP needs open_clip's own VisionTransformer as image tower, got {type(visual).__name__}; "
            "set MODEL.CLIP.NAME to a ViT such as ViT-B-16"
        )
    if visual.attn_pool is not None or visual.proj is None or visual.final_ln_after_pool:
        raise ValueError(
            "TagCLIP needs a ViT whose tokens are normed and projected one by one; this one pools them by attention, "
            "norms after pooling or has no projection. Set MODEL.CLIP.NAME to a plain ViT such as ViT-B-16 or ViT-L-14"
        )
