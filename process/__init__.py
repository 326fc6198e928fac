"""The server as a process of its operating system: workers, what they share, systemd, log lines, open files."""
