"""What is durable: one SQLite file, the sealed frames in it, and the full tiles."""
