"""The merge arithmetic: what each tensor of the base becomes. Knows numbers and no files; numpy only, no torch."""
