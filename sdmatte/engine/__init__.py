"""The network as it is computed, fast: the same weights and the same function as :class:`sdmatte.network.Network`.

Every step away from the plain network is exact in real arithmetic; docs/engine.md says what each brings, and how far
rounding moves alphas. :func:`sdmatte.engine.build.build_engine` makes one from a network.
"""
