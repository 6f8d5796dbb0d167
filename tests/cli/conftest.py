"""Commands set up logging for the whole process; each test gets it as it was."""

import logging

import pytest
from detectron2.utils.logger import setup_logger


@pytest.fixture(autouse=True)
def fresh_loggers():
    loggers = [logging.getLogger(name) for name in ("fvcore", "detectron2", "mta_clip")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    yield
    setup_logger.cache_clear()
    for logger, (logger.level, logger.propagate) in zip(loggers, before, strict=True):
        logger.handlers.clear()
