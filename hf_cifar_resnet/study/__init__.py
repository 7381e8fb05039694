"""Comparing runs: plan, execute, report, search."""
