"""Tests: unit, sql, server, browser, process and project; beside them what they share."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
