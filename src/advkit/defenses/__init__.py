"""Defenses that wrap or train a model, and what an attacker who knows them differentiates."""

from advkit.defenses.base import Defense, InputTransformation

__all__ = ["Defense", "InputTransformation"]
