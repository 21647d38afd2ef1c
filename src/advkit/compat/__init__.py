"""Other libraries' names over advkit's attacks, so that code written for them runs."""
