import re
import subprocess
import sys
import zipfile

import pytest
from scripts import ROOT, load_script


@pytest.fixture(scope="module")
def bundle():
    return load_script("tools/make_bundle.py")


def wheel(folder, name="thing", size=10, **files):
    path = folder / f"{name}-1.0-cp311-cp311-linux_x86_64.whl"
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: black (==21.4b2)\n\nRequires-Dist: x"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "x = 1\n" + "#" * size)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp311-cp311-linux_x86_64\n")
        archive.writestr(f"{info}/RECORD", "")
        for file, text in files.items():
            archive.writestr(file, text)
    return path


def test_a_pure_wheel_installs_and_needs_what_it_is_told(bundle, tmp_path):
    pure = bundle.make_pure(wheel(tmp_path), ["yacs", "numpy"])
    assert pure.name == "thing-1.0-py3-none-any.whl" and list(tmp_path.iterdir()) == [pure]
    with zipfile.ZipFile(pure) as archive:
        metadata = archive.read("thing-1.0.dist-info/METADATA").decode()
    header, _, text = metadata.partition("\n\n")
    assert [line for line in header.splitlines() if "Requires" in line] == [
        "Requires-Dist: yacs",
        "Requires-Dist: numpy",
    ]
    assert text == "Requires-Dist: x"  # the description
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", target, pure]
    subprocess.run(command, check=True)
    assert (target / "thing" / "__init__.py").read_text().startswith("x = 1")
    assert "thing/__init__.py,sha256=" in (target / "thing-1.0.dist-info" / "RECORD").read_text()


def test_a_compiled_wheel_is_not_called_pure(bundle, tmp_path):
    path = wheel(tmp_path, **{"thing/_C.so": "machine code"})
    with pytest.raises(ValueError, match=r"has compiled files: thing/_C\.so"):
        bundle.make_pure(path, [])
    assert path.is_file()


def test_no_folder_is_larger_than_the_limit(bundle, tmp_path):
    paths = [wheel(tmp_path, f"w{size}", size * 1000) for size in (30, 70, 60, 20, 5)]
    parts = bundle.deal_out(paths, 101_000 + 1000)
    assert sorted(path for part in parts for path in part) == sorted(paths)
    names = [sorted(path.name.split("-")[0] for path in part) for part in parts]
    assert names == [
        ["w30", "w70"],
        ["w20", "w5", "w60"],
    ]
    with pytest.raises(ValueError, match=r"w70-1\.0-\S+ has 0\.1 MiB, the limit is 0\.0: raise --limit"):
        bundle.deal_out(paths, 50_000)


def test_detectron2_needs_what_uv_is_told(bundle):
    project = bundle.tomllib.loads((ROOT / "pyproject.toml").read_text())
    metadata = bundle.detectron2_metadata(project)
    assert f"{bundle.DETECTRON2}=={metadata['version']}" in project["dependency-groups"]["detectron2"]
    assert "yacs" in metadata["requires-dist"] and "black" not in metadata["requires-dist"]


def test_names_are_compared_as_pip_does(bundle):
    names = [bundle.name_of(pin) for pin in ("Open_CLIP.torch==3.3", "numpy>=2", "uvicorn[x]==1 ; y", "a~=1")]
    assert names == ["open-clip-torch", "numpy", "uvicorn", "a"]


def test_what_is_given_is_not_collected(bundle, tmp_path, monkeypatch, capsys):
    resolved = iter([["numpy==2.5.5", "tqdm==4.1"], ["numpy==2.5.5", "tqdm==4.1", "yacs==0.1", "fvcore==0.1.5"]])
    asked = []

    def resolve(requirements, constraints, python):
        asked.append((list(requirements), list(constraints), python))
        return next(resolved)

    def download(pins, folder, python):
        for pin in pins:
            wheel(folder, pin.split("=")[0])

    def build(source, folder, flags=()):
        return wheel(folder, "mta_clip" if source == str(ROOT) else source.split("=")[0].replace("-", "_"))

    for function in (resolve, download, build):
        monkeypatch.setattr(bundle, function.__name__, function)
    output = tmp_path / "bundle"
    bundle.main(["--python", "3.12", "--given", "numpy==2.5.*", "--output", str(output)])
    assert asked[0] == (["numpy==2.5.*"], [], "3.12")
    assert asked[1][1] == ["numpy==2.5.5", "tqdm==4.1"] and {"scipy>=1.10", "pytest>=8"} <= {*asked[1][0]}
    names = [path.name.split("-")[0] for path in (output / "1").iterdir()]
    assert sorted(names) == ["detectron2_cdo", "fvcore", "mta_clip", "yacs"]
    assert f"--find-links {output / '1'} mta-clip detectron2-cdo pytest" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="exists: delete it"):
        bundle.main(["--output", str(output)])


@pytest.mark.network
def test_the_real_bundle_is_complete_and_within_the_limit(bundle, tmp_path):
    bundle.main(["--python", "3.12", "--output", str(tmp_path / "bundle")])
    parts = [list(part.iterdir()) for part in (tmp_path / "bundle").iterdir()]
    assert all(sum(file.stat().st_size for file in part) <= 55 * 2**20 for part in parts)
    files = [file.name for part in parts for file in part]
    names = {bundle.name_of(file.split("-")[0]) for file in files}
    assert names >= {
        "mta-clip",
        "detectron2-cdo",
        "open-clip-torch",
        "opencv-python-headless",
        "scipy",
        "fvcore",
        "yacs",
    }
    assert not names & {"torch", "torchvision", "numpy", "transformers", "pillow", "tqdm", "nvidia-cublas"}
    fits = re.compile(r"-((py2\.)?py3-none-any|cp312-cp312-.*x86_64|cp\d+-abi3-.*x86_64)\.whl$")
    assert all(fits.search(file) for file in files)
