"""Crash-proof local logging."""
