"""The EzCaptcha service: its JSON, its transport, its client."""
