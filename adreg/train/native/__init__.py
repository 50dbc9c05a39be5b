"""Decoder layers in C, forward and back, for processors that multiply bfloat16."""
