"""Detector families: each scores windows of scaled events."""
