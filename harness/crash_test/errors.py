"""What ends a run before its cycles do."""

from __future__ import annotations


class CrashTestError(Exception):
    """Something that is needed is missing or does not work; the message says what, where, and what to do."""


class SettingsError(CrashTestError):
    """Options that do not go together."""
