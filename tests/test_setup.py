"""What a wheel and an sdist hold, and that the wheel works where there is no clone."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from saved_models import mta_clip_config, write_run
from scripts import ROOT

import mta_clip

CONFIGURATION = """
import json, setuptools
from distutils.core import run_setup
project = run_setup("setup.py", stop_after="config")
project.include_package_data = False  # patterns alone, not what MANIFEST.in names
build = project.get_command_obj("build_py")
build.ensure_finalized()
files = [f"{folder}/{file}" for _, folder, _, names in build.data_files for file in names]
print(json.dumps({"version": project.get_version(), "readme": project.metadata.long_description, "files": files}))
"""


@pytest.fixture(scope="module")
def configuration():
    """What setuptools understands."""
    done = subprocess.run([sys.executable, "-c", CONFIGURATION], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def files_of_the_package() -> dict[str, bytes]:
    """What a wheel has to hold, by its path in the wheel."""
    package = [path for path in (ROOT / "mta_clip").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    configs = {f"mta_clip/{path.relative_to(ROOT)}": path.read_bytes() for path in (ROOT / "configs").rglob("*.yaml")}
    return {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in package} | configs


def test_every_file_that_is_no_python_is_package_data(configuration):
    data = {path for path in files_of_the_package() if not path.endswith(".py") and "/configs/" not in path}
    assert set(configuration["files"]) == data and "mta_clip/app/viewer/viewer.js" in data


def test_the_version_is_that_of_the_package(configuration):
    assert configuration["version"] == mta_clip.__version__


def test_the_readme_of_a_package_index_has_no_relative_links(configuration):
    text = configuration["readme"]
    targets = re.findall(r"\]\(([^)]*)\)", text) + re.findall(r'\b(?:src|srcset|href)="([^"]*)"', text)
    assert targets and [target for target in targets if not target.startswith("https://")] == []
    kept = re.findall(r"(?<!!)\[([^]!]+)\]\(docs/", (ROOT / "README.md").read_text())
    assert text.startswith("# mta-clip") and kept and all(words in text for words in kept)


def build(source: Path, output: Path, *options: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", str(output), str(source)], check=True
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with an sdist and the wheel that was built from it, and the source that both are of."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.strip("\0").split("\0"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    build(source, output)
    return source, output


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_configs(built, tmp_path):
    source, output = built
    (wheel,) = output.glob("*.whl")
    expected = files_of_the_package()
    assert contents(wheel) == {name: expected[name] for name in sorted(expected)}
    build(source, tmp_path, "--wheel")  # without the sdist in between
    (direct,) = tmp_path.glob("*.whl")
    assert contents(direct) == contents(wheel)


@pytest.mark.slow
def test_the_sdist_holds_what_builds_the_wheel(built):
    (sdist,) = built[1].glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "LICENSE", "CHANGELOG.md", "CITATION.cff", "configs/shapes/mta_clip_tiny.yaml"} <= names
    assert not [name for name in names if name.startswith(("tests", "tools", "docs", "output"))]


@pytest.mark.slow
def test_the_wheel_predicts_without_a_clone(built, tmp_path):
    (wheel,) = built[1].glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    write_run(tmp_path / "model", mta_clip_config())
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")

    def command(*arguments: str) -> str:
        start = f"import sys; sys.path.insert(0, {str(tmp_path / 'installed')!r}); from mta_clip.cli.main import main; "
        call = [sys.executable, "-I", "-c", f"{start}sys.exit(main())", *arguments]
        return subprocess.run(call, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True).stdout

    assert "predict" in command("--help")
    assert str(tmp_path / "installed") in command("info", "camvid/mta_clip_small")
    command("predict", "--config-file", "model", "--input", "photo.png", "--output", "drawn")
    assert len(list((tmp_path / "drawn").iterdir())) == 1
