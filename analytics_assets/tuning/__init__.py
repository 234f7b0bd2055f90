"""Signals, policy, decision: what load comes and what capacity is kept for it, what a task needs and what it asks for.

Knows no Dagster and no clock; files only where it says so (`keep`, `in_force`, `models`, `resources`).
"""
