"""A page that shows what the detector hears, and its JSON API; the extra ``web``."""
