"""Reads runs, compares them, and starts many."""
