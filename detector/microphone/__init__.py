"""A sound card as a source that never ends: waited for, listened to, lost and found again."""
