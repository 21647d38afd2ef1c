"""Other libraries' interfaces to advkit's attacks, so that code written for them runs."""
