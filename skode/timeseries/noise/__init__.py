"""Noise with a memory."""
