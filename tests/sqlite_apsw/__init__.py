"""SQLite over apsw: what is its own. The rest: AIODBKIT_TEST_DRIVERS=apsw."""
