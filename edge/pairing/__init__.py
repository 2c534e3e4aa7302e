"""Who may look: one-time tokens, the phones' accounts at the broker, and the certificates of the adapter."""
