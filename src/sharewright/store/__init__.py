"""Tables, migrations and named queries, for SQLite and PostgreSQL alike."""
