"""The segmentation head: pixel decoder and transformer decoder.

Shapes: B images, K rows of text ("no object" last), Z contexts or templates, Dt text width.
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
    """Turns encoder maps, and text if there is any, into mask predictions; without text it is Mask2Former's head.

    Args:
        pixel_decoder: encoder maps -> mask features and memories, see PIXEL_DECODERS.
        transformer_decoder: memories, mask features and text -> mask predictions, see TRANSFORMER_DECODERS.
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
        """Constructor arguments from a config; both decoders are chosen by name."""
        pixel_decoder = PIXEL_DECODERS.get(cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME)(cfg, input_shape)
        transformer_decoder = TRANSFORMER_DECODERS.get(cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME)(
            cfg, in_channels=pixel_decoder.conv_dim, mask_dim=pixel_decoder.mask_dim
        )
        return {"pixel_decoder": pixel_decoder, "transformer_decoder": transformer_decoder}

    def forward(self, features: dict[str, Tensor], text: Tensor | None = None) -> HeadOutput:
        """Predictions of all layers in training, of the last in evaluation.

        Args:
            features: encoder maps by name.
            text: (Z, K, Dt), or (Z, B, K, Dt) if it differs between images; None for a decoder without text.
        """
        mask_features, memories = self.pixel_decoder(features)
        return self.transformer_decoder(memories, mask_features, text)
