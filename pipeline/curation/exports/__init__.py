"""The forms in which accepted objects leave."""
