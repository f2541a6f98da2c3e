"""Above the database: requests and their answers."""
