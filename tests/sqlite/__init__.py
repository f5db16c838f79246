"""What SQLite has and no server has, asked through the public API."""
