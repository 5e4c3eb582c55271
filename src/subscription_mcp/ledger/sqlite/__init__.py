"""The SQLite engine: one file, whoever and however many work on it."""
