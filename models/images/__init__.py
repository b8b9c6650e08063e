"""The project report's own experiments: digits and clips as still images, spike encodings, and the neuron."""
