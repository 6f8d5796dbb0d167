"""What pyproject.toml cannot declare: configs/ is beside the package in a clone, and inside it in a wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copies configs/ to mta_clip/configs/; an editable installation reads them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            copy = Path(self.build_lib, "mta_clip", "configs")
            shutil.rmtree(copy, ignore_errors=True)  # of an earlier build, with configs that may be gone
            shutil.copytree("configs", copy, ignore=shutil.ignore_patterns("*.md"))


setup(cmdclass={"build_py": BuildWithConfigs})
