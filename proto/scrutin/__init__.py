"""The wire types of Scrutin, generated from `ensemble.proto` by `make proto`."""
