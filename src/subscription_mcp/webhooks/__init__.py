"""Outgoing webhooks: messages of the ledger, signed and sent to one address until they are received."""
