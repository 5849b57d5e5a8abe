"""Who pays for a challenge, and what happens to the request that met it."""
