"""Frameworks: one module each, which imports its framework; nothing else imports these."""
