"""How far a matte can be trusted: features that need no ground truth, and their calibration to an error."""
