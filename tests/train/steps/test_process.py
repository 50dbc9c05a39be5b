"""Memory that a step frees is there for the next one."""

import subprocess
import sys
import textwrap

import pytest

FAULTS = """
    import resource
    from adreg.train.steps.process import keep_memory
    {tune}

    def step():
        kept = [b"x" * (4_000_000 + number) for number in range(20)]

    for _ in range(3):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_step_takes_the_pages_of_the_last_one():
    def faults(tune):
        code = textwrap.dedent(FAULTS.format(tune=tune))
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert faults("keep_memory()") < 1000 < faults("")
