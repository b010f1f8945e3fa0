"""The aggregator: takes requests, runs members, votes, answers. Imports the core of `ensembles`, never the other way."""
