"""Checks that run on the device, and the enumerations that name their outcomes."""
