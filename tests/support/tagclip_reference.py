"""Our TagCLIP modules with the sizes and weights of a reference file."""

import torch
from golden_files import weights
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import nn

from mta_clip.checkpoint.sources import TAGCLIP, translate
from mta_clip.data.zero_shot import ClassSplit
from mta_clip.modeling.meta_arch.tag_clip import TagCLIP
from mta_clip.modeling.tagclip.labels import TrainingLabels
from mta_clip.modeling.tagclip.losses import TrustyCriterion
from mta_clip.modeling.tagclip.prompted_encoder import PromptedImageEncoder
from mta_clip.modeling.tagclip.trusty_head import TrustyHead


def our_weights(arrays: dict, official_prefix: str) -> dict[str, torch.Tensor]:
    """Stored weights by our names, relative to the module that the official prefix stands for."""
    stored = {name.removeprefix(official_prefix): value for name, value in weights(arrays).items()}
    renamed = {translate(official_prefix + name, TAGCLIP): value for name, value in stored.items()}
    return {name.partition(".")[2]: value for name, value in renamed.items()}


def reference_encoder(config: dict, state: dict[str, torch.Tensor]) -> PromptedImageEncoder:
    """Encoder with the weights of a `tag_encoder` or `tag_e2e` file (by our names), in eval mode."""
    width, _, patch, _ = state["visual.conv1.weight"].shape
    visual = VisionTransformer(
        image_size=config["input_resolution"],
        patch_size=patch,
        width=width,
        layers=1 + len(state["prompts.deeper"]),
        heads=config["heads"],
        mlp_ratio=len(state["visual.transformer.resblocks.0.mlp.c_fc.weight"]) / width,
        output_dim=state["visual.proj"].shape[1],
        act_layer=QuickGELU,
    )
    size = config["input_resolution"]
    encoder = PromptedImageEncoder(
        visual=visual,
        num_prompts=state["prompts.first"].shape[1],
        image_size=(size, size) if isinstance(size, int) else size,
    )
    encoder.load_state_dict(state)
    return encoder.eval()


def reference_head(config: dict, state: dict[str, torch.Tensor]) -> TrustyHead:
    """Head with all weights of a `tag_head` or `tag_e2e` file (by our names), in eval mode."""
    layers = {int(name.split(".")[2]) for name in state if name.startswith("decoder.layers.")}
    head = TrustyHead(
        dim=state["trusty_token"].shape[1], num_heads=config["head_heads"], num_layers=len(layers), keep_unused=True
    )
    head.load_state_dict(state)
    return head.eval()


class FixedText(nn.Module):
    """Stored text features by name."""

    vocabulary = None

    def __init__(self, names: list[str], features: torch.Tensor):
        super().__init__()
        self.features = dict(zip(names, features, strict=True))

    def texts_of(self, names: list[str]) -> tuple[list[str], list[int]]:
        return names, list(range(len(names)))

    def ensemble(self, names: list[str]) -> torch.Tensor:
        return torch.stack([self.features[name] for name in names])


def reference_model(config: dict, arrays: dict, **changes) -> TagCLIP:
    """The released code's behaviour: released trusty target, released weighting."""

    def part(prefix: str) -> dict:
        return our_weights({name: x for name, x in arrays.items() if name.startswith("w/" + prefix)}, prefix)

    names = [f"class {i}" for i in range(config["num_classes"])]
    encoder = reference_encoder(config, part("backbone."))
    return TagCLIP(
        **{
            "backbone": encoder,
            "head": reference_head(config, part("decode_head.")),
            "class_text": FixedText(names, arrays["text"]),
            "criterion": TrustyCriterion(),
            "labels": TrainingLabels(
                split=ClassSplit(names, [names[i] for i in config["unseen"]]),
                protocol="inductive_released",
                trusty_target="unseen",
            ),
            "pixel_mean": [0.0, 0.0, 0.0],
            "pixel_std": [1.0, 1.0, 1.0],
            "size_divisibility": encoder.patch_size,
            **changes,
        }
    ).eval()
