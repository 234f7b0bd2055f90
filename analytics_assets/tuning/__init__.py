"""Signals, policy, decision: what load comes, and how much capacity is kept for it. Knows no Dagster, no files and no clock."""
