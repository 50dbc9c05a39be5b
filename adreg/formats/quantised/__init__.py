"""Weights that are stored quantised: bitsandbytes, GPTQ, AWQ, fp8."""
