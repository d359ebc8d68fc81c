"""Enforcement points outside lachan that this room drives."""
