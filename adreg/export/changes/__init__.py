"""What each adapter does to each tensor of the base, family by family. Knows names and shapes, does no arithmetic."""
