"""A trained model as streaming ONNX, with float and with int8 weights."""
