import importlib.metadata

import pytest
from scripts import load_script


@pytest.fixture(scope="module")
def audit():
    return load_script("tools/audit.py")


def test_the_installed_files_are_the_official_ones(audit, capsys):
    try:
        importlib.metadata.version("detectron2-cdo")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("another distribution of Detectron2 is installed")
    assert audit.main() == 0
    assert capsys.readouterr().out == (
        "All 158 Python files of detectron2-cdo 0.5 are those of the official tag v0.5.\n"
    )


def test_every_difference_is_named(audit, tmp_path):
    folder = tmp_path / "detectron2"
    (folder / "engine").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "engine" / "hooks.py").write_text("import os  # not there before\n")
    (folder / "extra.py").write_text("")
    (folder / "_C.so").touch()  # no Python file
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # sha256 of nothing
    official = {f"detectron2/{name}": empty for name in ("__init__.py", "engine/hooks.py", "gone.py")}
    assert audit.differences(tmp_path, official) == [
        "missing: detectron2/gone.py",
        "differs: detectron2/engine/hooks.py",
        "not official: detectron2/extra.py",
    ]
    (folder / "extra.py").unlink()
    (folder / "engine" / "hooks.py").write_text("")
    (folder / "gone.py").touch()
    assert audit.differences(tmp_path, official) == []


class Installed:
    def __init__(self, version, folder):
        self.version, self.folder = version, folder

    def locate_file(self, path):
        return self.folder / path


@pytest.mark.parametrize(("version", "said"), [("0.6", "0.6 is installed, expected 0.5"), ("0.5", "158 differences")])
def test_the_command_fails(audit, tmp_path, monkeypatch, capsys, version, said):
    monkeypatch.setattr(audit.importlib.metadata, "distribution", lambda name: Installed(version, tmp_path))
    assert audit.main() == 1
    assert said in capsys.readouterr().out


def test_without_it_there_is_nothing_to_compare(audit, monkeypatch, capsys):
    def distribution(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(audit.importlib.metadata, "distribution", distribution)
    assert audit.main() == 0
    assert "nothing to compare" in capsys.readouterr().out
