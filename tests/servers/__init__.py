"""Real servers for the tests: found, installed, started, killed, frozen, cut off.

====================  ==================================================================
``environment.py``    the environment variables that steer all this, and `Unavailable`
``process.py``        one server process, owned by us: spawn, kill, freeze, reap
``certificates.py``   a certificate authority for TLS
``binaries.py``       where server programs come from: this machine, PyPI, apt-get
``postgres.py``       a private PostgreSQL
``mariadb.py``        a private MariaDB
``database.py``       a database of this run's own on a server, emptied after each test
``wire.py``           a TCP proxy that misbehaves on demand
====================  ==================================================================
"""
