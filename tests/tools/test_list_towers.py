"""The list of towers, and the file generated from it."""

import open_clip
import pytest
from scripts import ROOT, load_script

list_towers = load_script("tools/list_towers.py")


def test_every_kind_of_text_tower():
    kinds = {
        "RN50": "causal, end token",
        "EVA02-B-16": "causal, end token",
        "ViT-L-14-worldwide": "causal, end token",
        "coca_ViT-B-32": "causal, class token",
        "ViT-B-16-SigLIP": "bidirectional, last token",
        "ViT-B-16-SigLIP2": "bidirectional, last token",
        "ViT-H-14-CLIPA": "bidirectional, last token",
        "MobileCLIP2-S0": "bidirectional, end token",
        "roberta-ViT-B-32": "Hugging Face roberta, mean",
        "xlm-roberta-base-ViT-B-32": "Hugging Face xlm-roberta, mean",
        "mt5-base-ViT-B-32": "Hugging Face mt5, mean",
        "nllb-clip-base": "Hugging Face m2m_100, cls",
    }
    assert {name: list_towers.text_tower(name) for name in kinds} == kinds


def test_every_kind_of_image_tower():
    kinds = {
        "RN50": "CLIP's ResNet",
        "ViT-B-16": "ViT",
        "convnext_base": "timm's stages (ConvNeXt)",
        "MobileCLIP-S1": "timm's stages (FastVit)",
        "MobileCLIP-B": "timm's ViT (VisionTransformer)",
        "ViTamin-S": "timm's ViT (VisionTransformer)",
        "EVA02-B-16": "timm's ViT (Eva)",
        "swin_base_patch4_window7_224": "Swin",
    }
    assert {name: list_towers.image_tower(name) for name in kinds} == kinds
    with pytest.raises(ValueError, match="image tower VisionTransformerRelPos is not supported"):
        list_towers.image_tower("vit_relpos_medium_patch16_cls_224")


def test_a_refusal_is_its_first_sentence():
    def refuse(name):
        raise ValueError(f"{name} has wheels. Choose one without")

    assert list_towers.cell(refuse, "cart") == "no: cart has wheels"


@pytest.mark.slow
def test_the_list_in_docs_holds():
    """All architectures are built, 45 different text towers among them."""
    if not open_clip.__version__.startswith("3.3."):
        pytest.skip(f"docs/towers.md is about open_clip 3.3, not {open_clip.__version__}")
    text = list_towers.table()
    assert len(list_towers.architectures()) == 144
    assert text == (ROOT / "docs" / "towers.md").read_text()
