"""Errors that end a command."""

from __future__ import annotations


class UsageError(Exception):
    """The call cannot be carried out as given; the message says what to change. Exit status 2."""
