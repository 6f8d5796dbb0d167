import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import mta_clip
from mta_clip import registration

# What `import mta_clip` must leave alone; each takes from a tenth of a second to seconds.
HEAVY = (
    "cv2",
    "detectron2",
    "huggingface_hub",
    "matplotlib",
    "open_clip",
    "pycocotools",
    "scipy",
    "timm",
    "torch",
    "torchvision",
)


def run(code: str, *options: str) -> str:
    """What a fresh interpreter prints."""
    root = Path(mta_clip.__file__).parents[1]
    process = subprocess.run([sys.executable, *options, "-c", code], cwd=root, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_importing_the_package_imports_nothing_heavy():
    assert run(f"import sys, mta_clip; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Packages `theirs` and `others`, which import each other, and `ours` and `own`, which need both whole."""
    sources = {
        "theirs": "import others; WHOLE = True",
        "others": "import theirs; WHOLE = True",
        "ours": "from theirs import WHOLE; from others import WHOLE",
        "own": "from theirs import WHOLE; from others import WHOLE",
    }
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registration, "FILLED_BY", {"theirs": "ours", "others": "own"})
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if type(f).__module__ != registration.__name__])
    yield
    for name in sources:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("first", ["theirs", "others", "ours", "own"])
def test_ours_follow_once_theirs_are_whole(packages, first):
    registration.register_with_detectron2()
    registration.register_with_detectron2()  # as after a reload
    assert not {"theirs", "ours"} & sys.modules.keys()
    importlib.import_module(first)
    assert {"theirs", "others", "ours", "own"} <= sys.modules.keys()
    importlib.reload(sys.modules["theirs"])


def test_ours_follow_at_once_if_theirs_are_there(packages):
    importlib.import_module("theirs")
    assert "ours" not in sys.modules
    registration.register_with_detectron2()
    assert {"ours", "own"} <= sys.modules.keys()


# Detectron2's two packages import each other, and so do ours: each order of importing them is another case.
@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import detectron2.modeling",
        "import detectron2.data",
        "import mta_clip.data",
        "from mta_clip.modeling import MTACLIP",
        "from detectron2.data.catalog import DatasetCatalog; import mta_clip.modeling",
    ],
)
def test_models_and_datasets_are_registered_in_each_order_of_imports(imports):
    code = f"""
import mta_clip
{imports}
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.data import DatasetCatalog
assert "MTACLIP" in META_ARCH_REGISTRY and "TagCLIP" in META_ARCH_REGISTRY
assert "CLIPImageEncoder" in BACKBONE_REGISTRY and "MaskTextHead" in SEM_SEG_HEADS_REGISTRY
assert "shapes_sem_seg_train" in DatasetCatalog.list()
"""
    run(code)


@pytest.mark.slow
def test_registries_that_are_there_already_are_filled_at_once():
    code = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("compat", "mta_clip/compat.py")
compat = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compat)
compat.patch_detectron2()  # an official detectron2 can be imported before mta_clip
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY
assert "MTACLIP" not in META_ARCH_REGISTRY
import mta_clip
assert "MTACLIP" in META_ARCH_REGISTRY and "shapes_sem_seg_train" in DatasetCatalog.list()
"""
    run(code)


@pytest.mark.slow
def test_data_need_no_models_and_models_need_no_solver():
    run("import sys, mta_clip.data; assert 'detectron2.modeling' not in sys.modules")
    run("import sys, mta_clip; mta_clip.load; assert 'scipy' not in sys.modules")


@pytest.mark.slow
def test_loading_warns_of_nothing_in_dependencies():
    run("import mta_clip; mta_clip.load, mta_clip.SegmentationPredictor", "-W", "error::FutureWarning")


def test_everything_public_is_there_with_a_docstring():
    for name in mta_clip.__all__:
        assert getattr(mta_clip, name).__doc__, name
    assert set(mta_clip.__all__) <= set(dir(mta_clip))
    with pytest.raises(AttributeError, match="nothing"):
        mta_clip.nothing  # noqa: B018
