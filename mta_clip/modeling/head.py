"""The segmentation head: pixel decoder and transformer decoder.

Shapes: B images, K classes with no object last, Z contexts, Dt text width.
"""

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from .outputs import HeadOutput
from .pixel_decoder import PIXEL_DECODERS
from .transformer_decoder import TRANSFORMER_DECODERS


@SEM_SEG_HEADS_REGISTRY.register()
class MaskTextHead(nn.Module):
    """Encoder maps (and text) to mask predictions; with a text-free transformer decoder, Mask2Former's head.

    Args:
        pixel_decoder: see PIXEL_DECODERS.
        transformer_decoder: see TRANSFORMER_DECODERS.
    """

    @configurable
    def __init__(self, *, pixel_decoder: nn.Module, transformer_decoder: nn.Module):
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.transformer_decoder = transformer_decoder

    @property
    def compares_text(self) -> bool:
        """Whether masks are compared with text, so that any names can classify them."""
        return getattr(self.transformer_decoder, "compare", False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        pixel_decoder = PIXEL_DECODERS.get(cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME)(cfg, input_shape)
        transformer_decoder = TRANSFORMER_DECODERS.get(cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME)(
            cfg, in_channels=pixel_decoder.conv_dim, mask_dim=pixel_decoder.mask_dim
        )
        return {"pixel_decoder": pixel_decoder, "transformer_decoder": transformer_decoder}

    def forward(self, features: dict[str, Tensor], text: Tensor | None = None) -> HeadOutput:
        """Predicts masks.

        Args:
            features: encoder maps by name.
            text: (Z, K, Dt), or (Z, B, K, Dt) if it differs per image; None for a decoder without text.
        """
        mask_features, memories = self.pixel_decoder(features)
        return self.transformer_decoder(memories, mask_features, text)
