from adreg.formats.adapter import open_adapter
from adreg.formats.checkpoint import open_checkpoint


def test_every_tensor_of_a_peft_adapter_is_understood(llama_adapter, other_adapter, gpt2_adapter):
    for folder in (llama_adapter, other_adapter, gpt2_adapter):
        adapter = open_adapter(folder)
        assert not adapter.foreign and not adapter.unpaired and not adapter.features
        assert 2 * len(adapter.modules) == len(adapter.file)


def test_patterns_and_rslora_decide_the_scaling_of_each_module(other_adapter):
    scaling = {module.name: (module.rank, module.scaling) for module in open_adapter(other_adapter).modules}
    assert scaling["model.layers.0.self_attn.q_proj"] == (4, 8 / 2)
    assert scaling["model.layers.0.self_attn.v_proj"] == (4, 3 / 2)
    assert scaling["model.layers.1.self_attn.q_proj"] == (2, 8 / 2**0.5)


def test_gpt2_projections_are_conv1d(tiny_gpt2, tiny_llama):
    assert open_checkpoint(tiny_gpt2).is_conv1d("transformer.h.0.attn.c_attn")
    assert not open_checkpoint(tiny_llama).is_conv1d("model.layers.0.self_attn.q_proj")
