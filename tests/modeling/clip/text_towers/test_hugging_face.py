"""Text encoders of transformers against open_clip's adapter and against transformers itself."""

import os
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import transformers
from open_clip.hf_model import HFTextEncoder
from safetensors.torch import load_file, save_file
from text_oracle import assert_equal, own_and_expected, randomise
from tiny_models import save_tiny_bert
from torch.nn import functional as F

from mta_clip.modeling.clip import CLIPTextEncoder
from mta_clip.modeling.clip.text_towers import HuggingFaceTextTower, adapt_text_tower
from mta_clip.modeling.clip.text_towers.hugging_face import HuggingFaceModel

BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
BERT |= {"vocab_size": 60, "max_position_embeddings": 20}
MT5 = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 40, "vocab_size": 60}
NLLB = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 40}
NLLB |= {"vocab_size": 60, "max_position_embeddings": 20}


def encoder(monkeypatch, model_type: str, sizes: dict, **options) -> HFTextEncoder:
    """open_clip's adapter around a tiny random model."""
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    monkeypatch.setattr(open_clip.hf_model.AutoConfig, "from_pretrained", lambda name: config)
    return randomise(HFTextEncoder("tiny", output_dim=24, pretrained=False, **options))


@pytest.mark.parametrize("contexts", [[[]], [[11, 12, 10], [13, 14, 15]]])
@pytest.mark.parametrize(
    "model_type, sizes, options, start",
    [
        ("bert", BERT, {"proj_type": "linear"}, 1),
        ("roberta", BERT, {"proj_type": "linear", "pooler_type": "mean_pooler"}, 1),
        ("xlm-roberta", BERT, {"proj_type": "mlp", "pooler_type": "cls_last_hidden_state_pooler"}, 1),
        ("mt5", MT5, {"proj_type": "mlp", "pooler_type": "mean_pooler"}, 0),
        ("m2m_100", NLLB, {"proj_type": "linear", "pooler_type": "cls_pooler"}, 1),
    ],
)
def test_equals_open_clip(monkeypatch, model_type, sizes, options, start, contexts):
    source = encoder(monkeypatch, model_type, sizes, **options)
    tower = adapt_text_tower(source)
    assert type(tower) is HuggingFaceTextTower and (tower.width, tower.text_dim) == (32, 24)
    tower.context_length = min(tower.context_length, 16)  # what the reference is padded to
    rows = [[4] * start + row for row in ([7, 8, 9, 3], [6, 3], [5, 5, 3])]
    table = source.transformer.get_input_embeddings()
    assert_equal(tower, source, table, rows, contexts, start=start, padding=source.config.pad_token_id)


def test_checkpointing_changes_nothing(monkeypatch):
    source = encoder(monkeypatch, "bert", BERT, proj_type="linear")
    table, results = source.transformer.get_input_embeddings(), []
    for checkpointing in (False, True):
        tower = adapt_text_tower(source, checkpointing=checkpointing)
        features, _ = own_and_expected(tower, source, table, [[4, 5, 3], [4, 3]], [[11], [12]], start=1, padding=0)
        (gradient,) = torch.autograd.grad(features[..., 0].sum(), table.weight)
        results.append((features, gradient))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    assert results[0][1][11].abs().max() > 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny random BERT with its tokenizer, as transformers saves them."""
    path = tmp_path_factory.mktemp("bert")
    save_tiny_bert(path)
    return path


def last_hidden_state(folder: Path, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """(K, T, E) and the mask (K, T) of transformers' own tokenizer and model."""
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return transformers.AutoModel.from_pretrained(folder)(**inputs).last_hidden_state, inputs["attention_mask"]


@pytest.mark.parametrize("pooling", ["", "mean", "cls", "last"])
def test_a_folder_equals_transformers(folder, pooling):
    texts = ["red ring", "a blue disc", "ring"]
    hidden, mask = last_hidden_state(folder, texts)
    expected = {
        "mean": (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True),
        "cls": hidden[:, 0],
        "last": hidden[torch.arange(3), mask.sum(1) - 1],
    }[pooling or "mean"]
    encoder = CLIPTextEncoder(name=f"hf:{folder}", pooling=pooling)
    tokens = encoder.tokenize(texts)
    assert tokens.tolist()[0] == [2, 4, 6, 3, -1]
    torch.testing.assert_close(encoder(tokens)[0], expected, rtol=1e-4, atol=1e-5)
    assert encoder(tokens, torch.zeros(3, 4, encoder.width)).shape == (3, 3, encoder.text_dim)


def test_the_same_tower_without_its_weights(folder):
    own, random = (CLIPTextEncoder(name=f"hf:{folder}", pretrained=pretrained) for pretrained in ("", "random"))
    shapes = {name: value.shape for name, value in own.state_dict().items()}
    assert {name: value.shape for name, value in random.state_dict().items()} == shapes
    tokens = own.tokenize(["red ring"])
    assert torch.equal(random.tokenize(["red ring"]), tokens)
    assert (random(tokens) - own(tokens)).abs().max() > 0.1
    assert not any(parameter.requires_grad for parameter in random.parameters())


@pytest.mark.parametrize("at_home", [False, True])
def test_the_pooling_that_sentence_transformers_stores(folder, tmp_path, monkeypatch, at_home):
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    encoder = CLIPTextEncoder(name=f"hf:~/{tmp_path.name}" if at_home else f"hf:{tmp_path}")
    hidden, _ = last_hidden_state(folder, ["red ring"])
    torch.testing.assert_close(encoder(encoder.tokenize(["red ring"]))[0], hidden[:, 0], rtol=1e-4, atol=1e-5)


def test_pretrained_sentence_encoder():
    """MiniLM-L6 in $MTA_CLIP_WEIGHTS/minilm_l6; reference.npz beside it has names and their embeddings."""
    root = Path(os.environ.get("MTA_CLIP_WEIGHTS", "/nonexistent"))
    if not (root / "minilm_l6").is_dir():
        pytest.skip("set MTA_CLIP_WEIGHTS to a folder with minilm_l6/ and reference.npz")
    with np.load(root / "reference.npz") as reference:
        names, expected = reference["names"].tolist(), torch.from_numpy(reference["text"])
    encoder = CLIPTextEncoder(name=f"hf:{root / 'minilm_l6'}")
    features = F.normalize(encoder(encoder.tokenize(names))[0], dim=-1)
    torch.testing.assert_close(features, expected.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("lost", ["pooler.", "encoder.layer.1.output."])
def test_only_the_pooler_may_be_missing(folder, tmp_path, lost, capfd):
    shutil.copytree(folder, tmp_path / "copy")
    file = tmp_path / "copy" / "model.safetensors"
    weights = {name: value for name, value in load_file(file).items() if not name.startswith(lost)}
    save_file(weights, file, metadata={"format": "pt"})
    if lost == "pooler.":
        HuggingFaceModel(str(tmp_path / "copy"))
        assert "MISSING" not in capfd.readouterr().err
    else:
        with pytest.raises(OSError, match=r"lacks 4 of its model's weights, such as encoder\.layer\.1"):
            HuggingFaceModel(str(tmp_path / "copy"))


def test_errors_say_what_to_do(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"TEXT_NAME: no such folder: {tmp_path}/absent"):
        CLIPTextEncoder(name=f"hf:{tmp_path}/absent")
    with pytest.raises(OSError, match="Expected a folder with config"):
        CLIPTextEncoder(name=f"hf:{tmp_path}")
    with pytest.raises(ValueError, match="TEXT_POOLING is 'median', expected mean, cls, last"):
        CLIPTextEncoder(name=f"hf:{folder}", pooling="median")
    with pytest.raises(ValueError, match=r"TEXT_PRETRAINED is 'openai', but hf:.* has its own weights"):
        CLIPTextEncoder(name=f"hf:{folder}", pretrained="openai")
    with pytest.raises(ValueError, match="TEXT_POOLING is 'cls', but mta-tiny has its own"):
        CLIPTextEncoder(name="mta-tiny", pooling="cls")
