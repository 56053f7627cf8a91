"""ONNX files: written, brought into other forms, compared with the model they come from."""
