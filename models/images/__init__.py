"""The report's own experiments: digits and clips as still pictures, encodings, and the neuron."""
