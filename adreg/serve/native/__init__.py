"""The lean executor: the Llama family on the cores of one machine, in C that is compiled where it runs. Knows no torch."""
