"""Defenses that wrap a model: one mechanism, one file."""
