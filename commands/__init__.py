"""The commands beside the server: `doctor` and `bench`."""
