"""Bytes in, bytes out: the protocols differ only here, and nothing behind this folder knows of any."""
