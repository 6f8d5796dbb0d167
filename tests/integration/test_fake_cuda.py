"""All models on a GPU that is not there: no tensor stays on the CPU, and the CPU waits only where it has to."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from fake_cuda import FakeCuda, fake_cuda
from tiny_models import NAMES, TAG_CLIP, batch, save_tiny_bert, tiny_config
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from mta_clip.data import LabelReader
from mta_clip.engine.gradients import GradientClipper
from mta_clip.engine.optimizer import build_optimizer
from mta_clip.engine.precision import Precision
from mta_clip.engine.train_loop import TrainLoop
from mta_clip.evaluation import SemanticEvaluator
from mta_clip.modeling.inference import AugmentedModel

SMALL = ("MODEL.MASK_FORMER.DEC_LAYERS", 2)
OVERRIDES = {"mask2former": SMALL, "mta-clip": SMALL, "tagclip": TAG_CLIP}
MATCHING = {"modeling/criterion/matcher.py:__call__: _to_copy": 1}
MATCHING_OF_PARTS = {"modeling/criterion/matcher.py:__call__: _to_copy": 2}
RECORD = {"engine/train_loop.py:_record: _to_copy": 1}
LOSS_SCALER = {"engine/precision.py:step: _local_scalar_dense": 1}  # whether gradients overflowed
EVALUATION = {"evaluation/semantic_evaluator.py:_predicted_labels: _to_copy": 1}


@pytest.fixture
def gpu():
    with fake_cuda() as mode:
        yield mode


def on_gpu(gpu: FakeCuda, name: str, *overrides):
    """A model on the GPU, and its config."""
    torch.manual_seed(0)
    cfg = tiny_config(*OVERRIDES[name], *overrides, text=name != "mask2former")
    model = build_model(cfg).to("cuda")
    gpu.waits.clear()
    return model, cfg


@pytest.mark.parametrize(
    ("name", "dtype", "overrides", "waits"),
    [
        ("mask2former", torch.float32, ("MODEL.MASK_FORMER.IGNORED_PIXELS", "excluded"), MATCHING),
        ("mta-clip", torch.float16, (), MATCHING | LOSS_SCALER),
        ("mta-clip", torch.bfloat16, ("MODEL.MTA.LEARN_TEMPERATURE", True), MATCHING),
        ("mta-clip", torch.float16, ("SOLVER.ACCUMULATE", 2), MATCHING_OF_PARTS | LOSS_SCALER),
        ("tagclip", torch.float32, ("SOLVER.ACCUMULATE", 2), {}),
        ("tagclip", torch.float16, (), LOSS_SCALER),
        ("tagclip", torch.bfloat16, ("DATASETS.PROTOCOL", "transductive"), {}),
    ],
)
def test_a_training_step(gpu, name, dtype, overrides, waits):
    train(gpu, *on_gpu(gpu, name, *overrides), dtype, waits)


def test_a_text_tower_of_hugging_face(gpu, tmp_path):
    with unset_fake_temporarily():
        tower = save_tiny_bert(tmp_path)
    model, cfg = on_gpu(gpu, "mta-clip", "MODEL.CLIP.TEXT_NAME", tower)
    train(gpu, model, cfg, torch.bfloat16, MATCHING)
    gpu.waits.clear()
    model.eval()(batch(1))
    assert gpu.waits == {}


def train(gpu, model, cfg, dtype, waits):
    """A step; checks for what the CPU waits."""
    loop = TrainLoop(
        model=model.train(),
        optimizer=build_optimizer(cfg, model),
        precision=Precision(device="cuda", dtype=dtype),
        clipper=GradientClipper(clip_type="full_model", clip_value=0.01),
        seed=1,
        accumulate=cfg.SOLVER.ACCUMULATE,
    )
    loop.batches = iter([batch()])
    computed_in = dtypes_of_linear_layers(model)
    with EventStorage() as loop.storage:
        loop.run_step()
    assert gpu.waits == waits | RECORD
    assert dtype in computed_in
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.device.type == p.grad.device.type == "cuda" for p in trained)
    assert all(loop.optimizer.state[p]["exp_avg"].device.type == "cuda" for p in trained)


def dtypes_of_linear_layers(model: nn.Module) -> set[torch.dtype]:
    """Filled when the model runs."""
    found = set()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, inputs, output: found.add(output.dtype))
    return found


@pytest.mark.parametrize(
    ("name", "overrides", "vocabulary"),
    [
        ("mask2former", ("TEST.PRECISION", "float16"), None),
        ("mta-clip", ("TEST.SEM_SEG.LABEL_MAPS_ONLY", True), None),
        ("mta-clip", ("MODEL.MTA.FROZEN_CLIP.ENABLED", True, "MODEL.MTA.CLASSIFIER", "ensemble"), ["sky; air", "cat"]),
        ("tagclip", ("TEST.PRECISION", "bfloat16"), None),
        ("tagclip", ("TEST.SEM_SEG.LABEL_MAPS_ONLY", True), ["sky; air", "cat"]),
    ],
)
def test_inference_never_waits(gpu, name, overrides, vocabulary):
    model, _ = on_gpu(gpu, name, *overrides)
    model.eval().set_vocabulary(vocabulary)
    (output,) = model([batch(1)[0] | {"height": 100, "width": 90}])
    assert gpu.waits == {}
    assert {x.device.type for x in output.values()} == {"cuda"}
    assert output.get("sem_seg", torch.empty(len(vocabulary or NAMES), 100, 90)).shape[1:] == (100, 90)


@pytest.mark.parametrize("name", OVERRIDES)
def test_evaluation_in_windows_and_augmented_waits_once_per_image(gpu, name, monkeypatch):
    window = ("TEST.SLIDING_WINDOW.ENABLED", True, "TEST.SLIDING_WINDOW.SIZE", [32, 48])
    stride = ("TEST.SLIDING_WINDOW.STRIDE", [32, 24], "TEST.SLIDING_WINDOW.BLEND", "linear")
    model, _ = on_gpu(gpu, name, *window, *stride)
    augmented = AugmentedModel(model=model.eval(), min_sizes=[48, 64], max_size=100, flip=True)
    reader = LabelReader(num_classes=len(NAMES), ignore_label=255)
    monkeypatch.setattr(LabelReader, "read", lambda *_: torch.zeros(64, 72, dtype=torch.int64).numpy())
    evaluator = SemanticEvaluator(class_names=NAMES, label_reader=reader, label_files={"a": "a.png"})
    inputs = [batch(1)[0] | {"file_name": "a"}]
    evaluator.process(inputs, augmented(inputs))
    evaluator.process(inputs, augmented([inputs[0] | {"label_maps_only": True}]))
    assert gpu.waits == dict.fromkeys(EVALUATION, 2)
    assert evaluator.evaluate()["sem_seg"]["pACC"] == 100  # what comes from the GPU is zeros, as are the labels
