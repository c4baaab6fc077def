"""Training of SDMatte in plain PyTorch: data, losses, and a loop that stops and continues at any step.

The authors released no training code; the recipe follows the paper (arXiv 2508.00443, section 4) and its public
configurations. Nothing here knows Ray: ``jobs/train.py`` runs this loop on Ray Train.
"""
