"""Exported files at work: classifying, timing, serving."""

from nas_zoo.export.runtime.classifier import OnnxClassifier

__all__ = ["OnnxClassifier"]
