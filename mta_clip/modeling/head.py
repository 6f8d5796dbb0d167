"""The segmentation head: pixel decoder and transformer decoder.

Shapes: B images, K rows of text ("no object" last), Z contexts or templates, Dt text width.
"""

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from .outputs import HeadOutput
from .pixel_decoder import PIXEL_DECODERS
from .pixel_text import PixelTextHead
from .transformer_decoder import TRANSFORMER_DECODERS


@SEM_SEG_HEADS_REGISTRY.register()
class MaskTextHead(nn.Module):
    """Turns encoder maps, and text if there is any, into mask predictions; without text it is Mask2Former's head.

    Args:
        pixel_decoder: encoder maps -> mask features and memories, see PIXEL_DECODERS.
        transformer_decoder: memories, mask features and text -> mask predictions, see TRANSFORMER_DECODERS.
        pixel_text: compares the encoder's pixels with text before the pixel decoder; the transformer decoder may then
            be one that takes no text. None: no such comparison.
    """

    @configurable
    def __init__(
        self, *, pixel_decoder: nn.Module, transformer_decoder: nn.Module, pixel_text: PixelTextHead | None = None
    ):
        super().__init__()
        self.pixel_text = pixel_text
        self.pixel_decoder = pixel_decoder
        self.transformer_decoder = transformer_decoder

    @property
    def compares_text(self) -> bool:
        """Whether masks are compared with text, so that any names can classify them."""
        return getattr(self.transformer_decoder, "compare", False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """Constructor arguments from a config; both decoders are chosen by name."""
        pixel_text = PixelTextHead(cfg, input_shape) if cfg.MODEL.MTA.PIXEL_TEXT_WEIGHT else None
        if pixel_text is not None:
            input_shape = pixel_text.output_shape()
        pixel_decoder = PIXEL_DECODERS.get(cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME)(cfg, input_shape)
        transformer_decoder = TRANSFORMER_DECODERS.get(cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME)(
            cfg, in_channels=pixel_decoder.conv_dim, mask_dim=pixel_decoder.mask_dim
        )
        return {"pixel_decoder": pixel_decoder, "transformer_decoder": transformer_decoder, "pixel_text": pixel_text}

    def forward(self, features: dict[str, Tensor], text: Tensor | None = None) -> HeadOutput:
        """Predictions of all layers in training, of the last in evaluation.

        Args:
            features: encoder maps by name.
            text: (Z, K, Dt), or (Z, B, K, Dt) if it differs between images; None for a decoder without text.
        """
        pixel_scores = None
        if self.pixel_text is not None:
            features, pixel_scores = self.pixel_text(features, text)
            text = text if self.transformer_decoder.takes_text else None
        mask_features, memories = self.pixel_decoder(features)
        output = self.transformer_decoder(memories, mask_features, text)
        output.pixel_scores = pixel_scores
        return output
