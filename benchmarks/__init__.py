"""Benchmarks behind the figures in the documentation; peers are measured in the same run."""
