"""Benchmarks: every figure beside its floor."""
