"""Callbacks for other people's trainers. Each is imported from its own module, and only then its library is.

- `advkit.integrations.lightning.RobustValidation`
- `advkit.integrations.transformers.RobustEvaluation`
"""
