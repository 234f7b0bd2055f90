"""Signals, policy, decision: what load comes and what capacity is kept for it, what a task needs and what it asks for.

Knows no Dagster, no files and no clock.
"""
