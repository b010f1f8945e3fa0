"""The domain of Scrutin and its workbench: what a vote is, how good it is, what it costs. Knows nothing of servers."""
