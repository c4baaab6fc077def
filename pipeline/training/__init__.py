"""Training runs: their configuration, and how they are built and run; the loop itself is ``sdmatte.training``."""
