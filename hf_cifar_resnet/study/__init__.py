"""Comparing runs: plan, choose arguments, execute, report."""
