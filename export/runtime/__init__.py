"""Exported files at work: classifying, timing, serving.

Other rooms import of it:

    classifier   one call from a picture to what it shows
    latency      times of pieces and of whole networks
    providers    ONNX Runtime on a GPU
    triton       a model repository of a server
"""

from nas_zoo.export.runtime.classifier import OnnxClassifier

__all__ = ["OnnxClassifier"]
