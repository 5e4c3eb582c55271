"""Payment providers: what one must do, the simulated one, and the loop that closes invoices and has them paid."""
