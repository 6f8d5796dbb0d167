"""Registry of prompt learners: how class names become text features."""

from fvcore.common.registry import Registry

PROMPT_LEARNERS = Registry("PROMPT_LEARNERS")
