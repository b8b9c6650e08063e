"""The network of a model as a NIR graph, and an interpreter that verifies it."""
