"""What is written to disk, and how it is known again."""
