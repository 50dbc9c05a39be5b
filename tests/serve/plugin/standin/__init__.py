"""The part of vLLM that a resolver plugin touches, with vLLM 0.32's own signatures; `test_signatures` compares them."""
