"""The YAML files of configs/, and what they are based on."""

from pathlib import Path

import yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BASES = sorted((CONFIGS / "_base").rglob("*.yaml"))
FILES = sorted(set(CONFIGS.rglob("*.yaml")) - set(BASES))


def name_of(path: Path) -> str:
    """Such as ade20k/mta_clip_rn50."""
    return path.relative_to(CONFIGS).with_suffix("").as_posix()


def bases_of(path: Path) -> list[Path]:
    """The bases of a config, and theirs."""
    named = yaml.safe_load(path.read_text()).get("_BASE_", [])
    direct = [(path.parent / name).resolve() for name in ([named] if isinstance(named, str) else named)]
    return [base for one in direct for base in (one, *bases_of(one))]
