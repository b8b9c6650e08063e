"""Where samples come from: sound files, raw samples and microphones, at the rate of the model."""
