"""Detectron2 meta-architectures: the models that a config names."""
