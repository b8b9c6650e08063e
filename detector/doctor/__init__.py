"""Looking over a machine: will the detector hear here, and if not, what is to be done."""
