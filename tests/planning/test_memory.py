"""The memory of a rank: the lecture's arithmetic, sparsity and quantization, how a model is divided among ranks, and layouts
that are impossible.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from labkit.config import GPT_J_6B
from labkit.errors import InvalidRequest
from labkit.planning.catalogue import GPUS, named_gpu, with_link
from labkit.planning.deployment import Deployment, micro_batch
from labkit.planning.memory import (
    activation_bytes,
    cache_bytes,
    fits,
    largest_batch,
    memory_of,
    weight_bytes,
)
from labkit.planning.named_shapes import SHAPES, named_shape
from labkit.planning.shape import Shape

A100 = named_gpu("a100-80gb")


def plan_of(model: str, **values: object) -> Deployment:
    return replace(Deployment(named_shape(model), A100), **values)  # type: ignore[arg-type]


def test_the_shape_of_gpt_j_counts_its_parameters() -> None:
    assert Shape.of_config(GPT_J_6B).parameter_count == GPT_J_6B.parameter_count == 6_050_882_784


@pytest.mark.parametrize(("name", "billions"), [("gpt-350m", 0.35), ("gpt-1.3b", 1.3), ("gpt-175b", 175), ("gpt-530b", 530)])
def test_the_named_shapes_have_the_size_of_their_name(name: str, billions: float) -> None:
    assert SHAPES[name].parameter_count / 1e9 == pytest.approx(billions, rel=0.04)


@pytest.mark.parametrize("parameters", [1e8, 1.3e9, 20e9, 175e9, 1e12])
def test_a_shape_for_a_number_of_parameters_has_about_that_many(parameters: float) -> None:
    shape = Shape.of_parameters(parameters)
    assert shape.parameter_count == pytest.approx(parameters, rel=0.07)
    assert shape.hidden_size % shape.num_heads == 0


def test_175b_in_16_bits_takes_what_the_lecture_says() -> None:
    """175e9 x 2 bytes are 325.96 GiB; 2:4 sparsity, int8 and int4 make the layers' matrices smaller."""
    whole = plan_of("gpt-175b")
    assert weight_bytes(whole) / 2**30 == pytest.approx(325.96, rel=0.005)
    assert weight_bytes(replace(whole, precision="int8")) == pytest.approx(weight_bytes(whole) / 2, rel=0.01)
    assert weight_bytes(replace(whole, precision="int4")) == pytest.approx(weight_bytes(whole) * 4.5 / 16, rel=0.01)
    assert weight_bytes(replace(whole, sparse=True)) == pytest.approx(weight_bytes(whole) * 9 / 16, rel=0.01)


def test_ranks_divide_weights_and_cache() -> None:
    whole, split = plan_of("gpt-175b", batch=8), plan_of("gpt-175b", batch=8, tensor_parallel=8, pipeline_parallel=2)
    assert weight_bytes(split) == pytest.approx(weight_bytes(whole) / 16, rel=0.02)
    assert cache_bytes(split) == pytest.approx(cache_bytes(whole) / 16)
    assert cache_bytes(whole) == 8 * 160 * 2 * 96 * 12288 * 2
    assert cache_bytes(replace(whole, cache_precision="fp8")) == cache_bytes(whole) / 2
    assert activation_bytes(split) < activation_bytes(whole)


def test_the_cache_of_gpt_j_takes_448_kib_per_token() -> None:
    assert cache_bytes(plan_of("gpt-j-6b"), tokens=1) == 458_752 == GPT_J_6B.kv_bytes_per_token(2)


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    plan = plan_of("gpt-20b", input_tokens=200, output_tokens=200)
    most = largest_batch(plan)
    assert most > 1
    assert fits(replace(plan, batch=most))
    assert not fits(replace(plan, batch=most + 1))
    assert largest_batch(plan_of("gpt-530b")) == 0


def test_the_parts_of_the_memory_are_positive_and_add_up() -> None:
    memory = memory_of(plan_of("gpt-6.7b"))
    assert memory.total == memory.weights + memory.cache + memory.activations + memory.workspace
    assert min(memory.weights, memory.cache, memory.activations, memory.workspace) > 0


@pytest.mark.parametrize(
    ("batch", "tokens", "stages", "size"), [(8, 20, 1, 8), (9, 20, 3, 3), (64, 20, 3, 32), (256, 60, 3, 16), (256, 1, 3, 256)]
)
def test_micro_batches_follow_fastertransformer(batch: int, tokens: int, stages: int, size: int) -> None:
    assert micro_batch(batch, tokens, stages) == size


def test_what_does_not_divide_is_refused_with_the_nearest_number() -> None:
    with pytest.raises(InvalidRequest, match="tensor_parallel 5 does not divide the 96 heads of gpt-175b; 4 does"):
        plan_of("gpt-175b", tensor_parallel=5)
    with pytest.raises(InvalidRequest, match="pipeline_parallel 2 does not divide the 105 layers of gpt-530b; 1 does"):
        plan_of("gpt-530b", pipeline_parallel=2)


def test_wrong_names_and_numbers_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"did you mean h100-80gb\?.*To add a GPU"):
        named_gpu("h100-80")
    with pytest.raises(InvalidRequest, match="the names are gpt-j-405m"):
        named_shape("llama")
    with pytest.raises(InvalidRequest, match="no link named 'token-ring'"):
        with_link(A100, "token-ring")
    with pytest.raises(InvalidRequest, match="batch is 0"):
        plan_of("gpt-20b", batch=0)
    with pytest.raises(InvalidRequest, match="no units for 2:4 sparsity"):
        Deployment(named_shape("gpt-20b"), named_gpu("v100-32gb"), sparse=True)
    with pytest.raises(InvalidRequest, match="v100-32gb does not compute in fp8"):
        named_gpu("v100-32gb").rate("fp8")


def test_every_gpu_has_a_source_and_sensible_rates() -> None:
    for gpu in GPUS.values():
        assert gpu.source
        assert gpu.watts > 50
        assert gpu.rate("int8") == gpu.rate("fp16") > gpu.rate("fp32") > gpu.read_bytes_per_second
