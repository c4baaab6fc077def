"""Stages of the pipeline: small classes that work on one Arrow table, and need no Ray to be called."""
