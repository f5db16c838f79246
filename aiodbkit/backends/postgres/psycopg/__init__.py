"""PostgreSQL over psycopg 3.

`connection` has what a connection does, over `bulk`, many rows at once, and `wire`, what is sent.
`exchange` runs psycopg's generators and ends what a cancelled task left unfinished. `statements`
prepares, `values` brings Python's values to the server and back, `connect` opens connections,
`errors` translates.
"""
