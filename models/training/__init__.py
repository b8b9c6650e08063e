"""Training: examples, losses, the loop, and the runs that it leaves."""
