import subprocess
import sys

import pytest
from scripts import ROOT, load_script

pytest.importorskip("mypy")
from mypy.options import Options
from mypy.types import AnyType, NoneType, TypeOfAny, UnionType


class Context:
    def __init__(self, declared):
        self.default_attr_type = declared


@pytest.fixture(scope="module")
def plugin():
    return load_script("tools/mypy_plugin.py").plugin("2.4")(Options())


def test_only_attributes_of_modules_are_looked_at(plugin):
    assert plugin.get_attribute_hook("torch.nn.modules.module.Module.blocks")
    assert plugin.get_attribute_hook("mta_clip.predictor.SegmentationPredictor.model") is None


def test_what_torch_cannot_tell_is_any(plugin):
    hook = plugin.get_attribute_hook("torch.nn.modules.module.Module.blocks")
    unknown, known = AnyType(TypeOfAny.explicit), NoneType()
    assert isinstance(hook(Context(UnionType([unknown, known]))), AnyType)
    assert hook(Context(known)) is known


@pytest.mark.slow
def test_mypy_finds_mistakes_in_modules(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\n"
        "class Net(nn.Module):\n"
        "    width: int = 3\n\n"
        "    def dynamic(self) -> int:\n"
        "        return self.anything.at[0](1)\n\n"
        "    def declared(self) -> str:\n"
        "        return self.width\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "net.py"]
    command += ["--cache-dir", str(ROOT / ".mypy_cache")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    errors = [line.partition(": ")[0] for line in done.stdout.splitlines()[:-1]]
    assert errors == ["net.py:11"], done.stdout + done.stderr
