"""Procedural scenes whose alphas are known exactly: training material without a download, tests with the truth.

An object is drawn as a :class:`~sdmatte.synthetic.layers.Layer` (colour and alpha) by one of the *families*, layers
are placed over a background, and a camera model damages the picture (never the alpha). Everything follows from a seed.
"""
