"""What a clearance is, what is known of each, and what it puts on a request."""
