"""The engines that `bench.serve` compares: how each is started and spoken to, and the world that all of them serve."""
