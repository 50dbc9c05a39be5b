"""From messages and text to tokens, and back to text as it comes."""
