"""The commands of server.py: `doctor` and `bench`."""
