"""From records to decisions, and from decisions to data sets."""
