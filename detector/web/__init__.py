"""The page that shows what is detected as it happens, and its JSON API; the extra ``web``."""
