"""The server as an operating system's process: workers, shared memory, systemd, log lines, open files."""
