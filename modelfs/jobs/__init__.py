"""What is done to a store: each job written once, for the daemon and for an unmounted store."""
