"""Where records go. Each sink knows one destination and nothing of the others."""
