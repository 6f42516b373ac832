"""Helpers that tests of several folders share, one topic per module."""
