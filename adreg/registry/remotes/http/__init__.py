"""Another adreg as a remote, over HTTP."""
