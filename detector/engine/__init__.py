"""The engines that run a model file: the C core, and onnxruntime where the core cannot."""
