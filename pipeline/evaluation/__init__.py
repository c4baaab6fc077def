"""Evaluation: mattes of a model and of baselines, measured against data sets with known alphas."""
