"""What the command `advkit` is made of; `advkit.cli` puts it together."""
