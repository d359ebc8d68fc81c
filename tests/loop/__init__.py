"""The whole loop at a served installation: real processes, the public doors, SQLite."""
