"""Finds the configs that come with the package by name: "camvid/mta_clip_small"."""

import difflib
from pathlib import Path

CONFIG_SUFFIXES = (".yaml", ".yml")
_INSTALLED = Path(__file__).parent / "configs"  # setup.py copies them there
_CLONED = Path(__file__).parents[1] / "configs"


def configs_folder() -> Path:
    """The folder of the configs, of the installed package or of the clone that it runs from."""
    return _INSTALLED if _INSTALLED.is_dir() else _CLONED


def config_names() -> list[str]:
    """Names of all configs that describe a whole model, such as "camvid/mta_clip_small", sorted."""
    names = (path.relative_to(configs_folder()).with_suffix("").as_posix() for path in configs_folder().rglob("*.yaml"))
    return sorted(name for name in names if not name.startswith("_base/"))


def names_config(text: str) -> bool:
    """Whether a text is the name of a config of the package, or ends as a config file does."""
    return text.endswith(CONFIG_SUFFIXES) or text in config_names()


def find_config(name: str) -> str:
    """The path of a config file.

    Args:
        name: an existing file, or the folder of a run; or the name of a config of this package, with or without ".yaml"
            and "configs/".

    Raises:
        FileNotFoundError: neither a file nor a name; the message suggests similar names.
    """
    if Path(name).is_file():
        return name
    if (saved := Path(name) / "config.yaml").is_file():
        return str(saved)
    short = name.removeprefix("configs/").removesuffix(".yaml")
    path = configs_folder() / f"{short}.yaml"
    if short and path.is_file():
        return str(path)
    if Path(name).is_dir():
        raise FileNotFoundError(f"{saved} does not exist; the folder of a run, or of a saved model, has one")
    if Path(name).suffix in (".pth", ".pkl", ".safetensors"):
        raise FileNotFoundError(f"checkpoint {name} does not exist")
    close = difflib.get_close_matches(short, config_names(), n=3)
    hint = f"; did you mean {', '.join(close)}?" if close else ". mta-clip info lists the names of all configs"
    raise FileNotFoundError(f"config file {name} does not exist, and no config of mta-clip has this name{hint}")
