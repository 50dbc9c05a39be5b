"""Profiles: accelerate takes each, files with their machines pass through, and what cannot be meant is refused by name."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from adreg.errors import AdregError
from adreg.train.launch.crew import environment
from adreg.train.launch.member import PROFILE
from adreg.train.launch.profile import NAMES, profile_file, read_profile

FILE = {
    "compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU", "num_machines": 2, "machine_rank": 1,
    "num_processes": 8, "main_process_ip": "10.0.0.7", "main_process_port": 29511, "mixed_precision": "'no'",
}  # fmt: skip


def written(tmp_path, **changes):
    path = tmp_path / "cluster.yaml"
    values = {name: value for name, value in (FILE | changes).items() if value is not None}
    path.write_text("".join(f"{name}: {value}\n" for name, value in values.items()))
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_takes_every_profile(name):
    from accelerate.commands.config.config_args import load_config_from_file

    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
    assert load_config_from_file(str(profile_file(name))).distributed_type == kinds[name]


def test_the_environment_is_what_accelerates_launcher_would_set(monkeypatch):
    from adreg.train.launch.accelerated import environment as accelerated

    monkeypatch.setenv("WORLD_SIZE", "2")
    assert accelerated(profile_file("ddp"))["ACCELERATE_MIXED_PRECISION"] == "no"
    found = accelerated(profile_file("fsdp2"))
    assert (found["ACCELERATE_USE_FSDP"], found["FSDP_VERSION"]) == ("true", "2")
    assert found["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT" and found["FSDP_AUTO_WRAP_POLICY"] == "TRANSFORMER_BASED_WRAP"
    found = accelerated(profile_file("zero3"))
    assert (found["ACCELERATE_USE_DEEPSPEED"], found["ACCELERATE_DEEPSPEED_ZERO_STAGE"]) == ("true", "3")


def test_a_file_says_which_machine_this_is_and_where_the_first_is(tmp_path):
    profile = read_profile(written(tmp_path), None)
    assert (profile.processes, profile.total, profile.machine) == (4, 8, 1)
    told = environment(profile, 2, 6, 29511)
    assert told["RANK"] == "6" and told["LOCAL_RANK"] == "2" and told["WORLD_SIZE"] == "8" and told["LOCAL_WORLD_SIZE"] == "4"
    assert told["MASTER_ADDR"] == "10.0.0.7" and told["MASTER_PORT"] == "29511" and told[PROFILE] == written(tmp_path)
    assert read_profile(written(tmp_path), 2).total == 4


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "no machine_rank": ({"machine_rank": None}, "2 machines need machine_rank"),
    "a machine too many": ({"machine_rank": 2}, "machine_rank is 2, and there are 2 machines"),
    "an odd share": ({"num_processes": 7}, "7 processes are not shared evenly by 2 machines"),
    "a rendezvous of torchrun": ({"rdzv_backend": "c10d"}, "rdzv_backend c10d"),
    "a TPU": ({"distributed_type": "XLA"}, "distributed_type XLA"),
    "a cloud": ({"compute_environment": "AMAZON_SAGEMAKER"}, "compute_environment AMAZON_SAGEMAKER"),
    "another precision": ({"mixed_precision": "bf16"}, "mixed_precision is bf16"),
    "FSDP 1": ({"distributed_type": "FSDP"}, "FSDP of version 1"),
    "steps of its own": (
        {"distributed_type": "DEEPSPEED", "deepspeed_config": "{gradient_accumulation_steps: 4}"},
        "gradient_accumulation_steps is not 1",
    ),
    "no configuration": ({"distributed_type": None}, "has no distributed_type"),
    "one process for many": ({"distributed_type": "NO"}, "distributed_type is NO, and there are 8 processes"),
    "words for numbers": ({"num_processes": "many"}, "num_processes is 'many'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_or_done_is_refused_by_name(case, tmp_path):
    changes, told = REFUSED[case]
    with pytest.raises(AdregError, match=told):
        read_profile(written(tmp_path, **changes), None)


def test_profiles_that_lack_something_say_what(tmp_path):
    with pytest.raises(AdregError, match="ddp does not say how many processes"):
        read_profile("ddp", None)
    with pytest.raises(AdregError, match="--accelerate nowhere: no profile and no file"):
        read_profile("nowhere", 2)
    if find_spec("deepspeed") is None:
        with pytest.raises(AdregError, match="zero3 needs deepspeed, which is not installed"):
            read_profile("zero3", 2)
