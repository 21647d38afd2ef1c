"""What data sets and loaders give, and how it is attacked: shared by transforms, data, defenses and evaluation."""
