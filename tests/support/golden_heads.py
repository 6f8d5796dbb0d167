"""Heads of this package with the configuration and the weights of a golden file (kinds m2f and mta_head)."""

import torch
from detectron2.layers import ShapeSpec
from golden_files import weights

from mta_clip.checkpoint.sources import MASK2FORMER_HEAD, MTA_CLIP_HEAD, Dropped, Names, translate
from mta_clip.modeling.head import MaskTextHead
from mta_clip.modeling.pixel_decoder import MSDeformAttnPixelDecoder
from mta_clip.modeling.transformer_decoder import MaskTextDecoder, MultiScaleMaskedTransformerDecoder


def mask2former_head(config: dict, arrays: dict[str, torch.Tensor]) -> MaskTextHead:
    """The text-free head of an m2f file, in evaluation mode."""
    decoder = MultiScaleMaskedTransformerDecoder(
        in_channels=config["conv_dim"], hidden_dim=config["hidden_dim"], **_decoder_sizes(config, config["nheads"])
    )
    pixel_decoder = _pixel_decoder(config, config["conv_dim"], config["nheads"], config["enc_points"], "gn_groups")
    return _loaded(pixel_decoder, decoder, arrays, MASK2FORMER_HEAD)


def mta_clip_head(config: dict, arrays: dict[str, torch.Tensor]) -> MaskTextHead:
    """The head of an mta_head file, in evaluation mode."""
    width, heads = config["feat_channels"], config["num_heads"]
    decoder = MaskTextDecoder(
        num_contexts=config["n_contexts"],
        text_dim=config["text_dim"],
        in_channels=width,
        hidden_dim=width,
        **_decoder_sizes(config, heads),
    )
    pixel_decoder = _pixel_decoder(config, width, heads, config["num_points_msda"], "num_groups")
    return _loaded(pixel_decoder, decoder, arrays, MTA_CLIP_HEAD)


def encoder_maps(arrays: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The stored encoder maps by our names."""
    return {f"res{i + 2}": arrays[f"x{i}"] for i in range(4)}


def _decoder_sizes(config: dict, heads: int) -> dict:
    return {
        "num_queries": config["num_queries"],
        "num_classes": config["num_classes"],
        "num_heads": heads,
        "feedforward_dim": config["dec_ffn"],
        "num_layers": config["dec_layers"],
        "mask_dim": config["mask_dim"],
    }


def _pixel_decoder(config: dict, width: int, heads: int, points: int, groups: str) -> MSDeformAttnPixelDecoder:
    return MSDeformAttnPixelDecoder(
        input_shape={
            f"res{i + 2}": ShapeSpec(channels=channels, stride=config["strides"][i])
            for i, channels in enumerate(config["in_channels"])
        },
        conv_dim=width,
        mask_dim=config["mask_dim"],
        num_layers=config["enc_layers"],
        num_heads=heads,
        num_points=points,
        feedforward_dim=config["enc_ffn"],
        norm_groups=config[groups],
    )


def _loaded(pixel_decoder, decoder, arrays, table: Names) -> MaskTextHead:
    head = MaskTextHead(pixel_decoder=pixel_decoder, transformer_decoder=decoder)
    renamed = {translate(name, table): value for name, value in weights(arrays).items()}
    head.load_state_dict({name: value for name, value in renamed.items() if not isinstance(name, Dropped)})
    return head.eval()
