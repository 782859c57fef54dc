"""Sampling parameters are described in one list. `SamplingParams`, the commands, the served model and the docs page agree with
it.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

from labkit.engine import SamplingParams
from labkit.sampling_vocabulary import PARAMETERS, reference
from labkit.serving.repository.tensors import GPTJ_INPUTS

ROOT = Path(__file__).parents[1]
BY_NAME = {each.name: each for each in PARAMETERS}


def test_the_fields_are_the_vocabulary() -> None:
    found = {field.name: None if field.default is MISSING else field.default for field in fields(SamplingParams)}
    assert list(found.items()) == [(each.name, each.default) for each in PARAMETERS]
    assert all(each.meaning in (SamplingParams.__doc__ or "") for each in PARAMETERS)


def test_no_name_means_two_parameters() -> None:
    names = [name for each in PARAMETERS for name in (each.name, *each.other_names)]
    options = [each.option for each in PARAMETERS if each.option]
    assert len(set(names)) == len(names)
    assert len(set(options)) == len(options)


def test_a_tensor_says_what_the_parameter_says() -> None:
    served = {spec.name: spec for spec in GPTJ_INPUTS if spec.name in BY_NAME}
    assert set(served) == {each.name for each in PARAMETERS if each.tensor}
    for name, spec in served.items():
        assert (spec.dtype, spec.meaning, spec.dims) == (
            BY_NAME[name].tensor,
            BY_NAME[name].meaning,
            (-1,) if BY_NAME[name].is_list else (1,),
        )


def test_the_page_is_up_to_date() -> None:
    page = ROOT / "docs/sampling_parameters.md"
    assert page.read_text("utf-8") == reference(), f"run: python -m labkit.sampling_vocabulary > {page.relative_to(ROOT)}"


def test_it_needs_neither_torch_nor_numpy() -> None:
    program = "import sys, labkit.sampling_vocabulary; print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"
