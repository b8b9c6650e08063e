"""What several parts need of the operating system: complete files, and pauses between retries."""
