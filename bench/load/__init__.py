"""Load for a server, and what is read off it: traces, the client, figures and scenarios. Knows no engine by name."""
