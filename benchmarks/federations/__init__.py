"""Federations that benchmarks run: real processes, clients that do not train, and stock Flower."""
