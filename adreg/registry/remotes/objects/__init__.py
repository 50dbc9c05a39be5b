"""Object stores and shared folders as remotes: everything is written by creating what is not there yet."""
