"""The built-in backends: one file each."""
