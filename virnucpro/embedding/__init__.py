"""Frames to feature rows: plan, extract, store."""
