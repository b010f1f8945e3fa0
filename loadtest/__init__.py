"""The load generator: a client like any other. Shares `scrutin.v1` with the server, nothing else."""
