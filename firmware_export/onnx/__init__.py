"""A trained model as streaming ONNX, with float or int8 weights, and the reader that other exports use."""
