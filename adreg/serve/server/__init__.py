"""The application on a port: sockets, who may come in, who else may know that it runs."""
