"""Exports of a trained model: streaming ONNX, ONNX with int8 weights, C99 and NIR."""
