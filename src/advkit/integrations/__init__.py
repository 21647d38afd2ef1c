"""Callbacks for other libraries' trainers. Each has its own module, which alone imports that library.

- `advkit.integrations.lightning.RobustValidation`
- `advkit.integrations.transformers.RobustEvaluation`
"""
