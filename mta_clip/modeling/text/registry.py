"""Registry of prompt learners: modules that turn class names into text features."""

from fvcore.common.registry import Registry

PROMPT_LEARNERS = Registry("PROMPT_LEARNERS")
