"""Jobs: the long tasks on a store, each written once, for the daemon and for unmounted stores."""
