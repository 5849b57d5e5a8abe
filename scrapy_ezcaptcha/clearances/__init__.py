"""Clearances: what they are, what is known about each, and what they add to a request."""
