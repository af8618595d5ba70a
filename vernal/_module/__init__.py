"""Modules: immutable dataclasses that are pytrees."""
