"""The same behaviours on every backend: what a user may rely on, asked through the public API."""
