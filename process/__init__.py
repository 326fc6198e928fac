"""The server as an operating system's process: workers, shared memory, messages, systemd, log lines, open files."""
