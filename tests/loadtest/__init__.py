"""Tests of loadtest/ that start nothing."""
