import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mta_clip.config import get_cfg
from mta_clip.evaluation import SemanticEvaluator, build_evaluator

NAME = "evaluator_build_test"


@pytest.fixture
def cfg(tmp_path):
    """A config that tests on a registered dataset of one image."""
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    DatasetCatalog.register(NAME, lambda: [{"file_name": "a.jpg", "sem_seg_file_name": str(tmp_path / "a.png")}])
    MetadataCatalog.get(NAME).set(stuff_classes=["sky", "road"], ignore_label=255, evaluator_type="sem_seg")
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    cfg.DATASETS.TEST = (NAME,)
    yield cfg
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_reports_go_where_they_are_asked_to(cfg, tmp_path):
    evaluator = build_evaluator(cfg, NAME)
    assert isinstance(evaluator, SemanticEvaluator) and evaluator.output_dir == tmp_path / "run"
    assert build_evaluator(cfg, NAME, tmp_path / "x").output_dir == tmp_path / "x"


def test_datasets_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="asks for evaluator None, but only 'sem_seg' is known; set `evaluator_type`"):
        build_evaluator(get_cfg(), "not_registered_for_segmentation")
