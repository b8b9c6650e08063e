"""What the detector hears, in a terminal."""
