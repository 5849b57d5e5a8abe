"""Who pays for a challenge, and what happens to the challenged request."""
