"""Makes a traced model stateful: OpenVINO keeps the cache, so that a step does not take it as input or return it."""

from __future__ import annotations

from typing import Any

from labkit.config import GPTJConfig

INPUTS = ("input_ids", "attention_mask", "position_ids")
"""The inputs of the traced model that come before the cache inputs."""


def make_stateful(model: Any, config: GPTJConfig) -> None:
    """Turn the cache's inputs and outputs into a state. A new input `beam_idx` reorders this state, as OpenVINO GenAI expects.

    optimum-intel does the same, but it cannot be installed together with transformers 5.24.
    """
    import numpy as np
    from openvino import PartialShape, Type, opset13
    from openvino._offline_transformations import apply_make_stateful_transformation

    for name, port in zip(INPUTS, model.inputs, strict=False):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(PartialShape([-1, -1]))
        port.get_node().set_element_type(Type.i64)
    model.outputs[0].get_tensor().set_names({"logits"})
    states = {}
    for number, (past, present) in enumerate(zip(model.inputs[len(INPUTS) :], model.outputs[1:], strict=True)):
        name = f"{number // 2}.{('key', 'value')[number % 2]}"
        past.get_tensor().set_names({f"past_key_values.{name}"})
        past.get_node().set_partial_shape(PartialShape([-1, config.num_heads, -1, config.head_dim]))
        present.get_tensor().set_names({f"present.{name}"})
        states[f"past_key_values.{name}"] = f"present.{name}"
    model.validate_nodes_and_infer_types()
    beam = opset13.parameter(PartialShape([-1]), np.int32, name="beam_idx")
    beam.output(0).get_tensor().add_names({"beam_idx"})
    model.add_parameters([beam])
    for name in states:
        port = model.input(name)
        readers = port.get_target_inputs()
        gathered = opset13.gather(port, beam, opset13.constant(0))
        for reader in readers:
            reader.replace_source_output(gathered.output(0))
    model.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(model, states)
    # Before the first step, the state is empty: it has one row for each prompt, and no tokens.
    shape = opset13.shape_of(model.input(INPUTS[0]), output_type="i64")
    rest = opset13.constant(np.array([config.num_heads, 0, config.head_dim], dtype=np.int64))
    empty = opset13.concat([opset13.gather(shape, opset13.constant([0]), opset13.constant(0)), rest], axis=0)
    for operation in model.get_ops():
        if operation.get_type_name() == "ReadValue":
            zero = opset13.constant(0.0, dtype=operation.get_output_element_type(0))
            operation.set_arguments([opset13.broadcast(zero, empty)])
    model.validate_nodes_and_infer_types()
