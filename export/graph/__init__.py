"""ONNX files: written, brought into other forms, compared with the model they come from.

Other rooms import of it:

    model         the model that a user names
    onnx_file     a model as a file
    variants      float16, and preprocessing inside
    deliver       a folder of checked files
    check         the one parity check
    real_images   images to check and calibrate on
"""
