"""What is kept on disk: files that are whole or absent, folders that work goes on in, and what tells models apart."""
