"""Trained models in three lines of Python: `mta_clip.load`, its `Segmenter` and its results."""
