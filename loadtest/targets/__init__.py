"""The ways to ask a server for a vote. Requests are encoded before the load; sending one never waits, and an answer is a callback."""
