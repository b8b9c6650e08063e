"""The settings of the service: their fields, where they are read from, and how they are shown."""
