"""adreg inside vLLM: adapters by their registry references, each on its exact base. Runs in vLLM's own process and environment.

Of adreg's dependencies only the base ones are there: nothing here imports torch, transformers or a web framework.
"""
