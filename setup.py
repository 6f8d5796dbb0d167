"""What pyproject.toml cannot declare: configs/ is inside a wheel's package, and its readme has no relative links."""

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# A package index shows the readme alone. Links to files become their text, pictures from files go.
RELATIVE = r"(?!https?://)"
PICTURES = rf'!\[[^\]]*\]\({RELATIVE}[^)]*\)\s*|<picture>.*?</picture>\s*|<img\b[^>]*\bsrc="{RELATIVE}[^>]*>\s*'
LINKS = rf'\[([^\]]*)\]\({RELATIVE}[^)]*\)|<a\b[^>]*\bhref="{RELATIVE}[^>]*>(.*?)</a>'


class BuildWithConfigs(build_py):
    """Copies configs/ to mta_clip/configs/; an editable installation reads them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            copy = Path(self.build_lib, "mta_clip", "configs")
            shutil.rmtree(copy, ignore_errors=True)  # of an earlier build, with configs that may be gone
            shutil.copytree("configs", copy, ignore=shutil.ignore_patterns("*.md"))


def standalone(markdown: str) -> str:
    """The readme without links to files."""
    text = re.sub(PICTURES, "", markdown, flags=re.DOTALL)
    return re.sub(LINKS, r"\1\2", text, flags=re.DOTALL)


setup(
    cmdclass={"build_py": BuildWithConfigs},
    long_description=standalone(Path("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
