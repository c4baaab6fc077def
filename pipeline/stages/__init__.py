"""The steps that images go through; each is callable without Ray."""
