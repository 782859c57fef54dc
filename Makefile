.PHONY: lab test test-all tour course env bench gpu docker release docs lint wheel

lab: env  ## the environment, a look at the machine, JupyterLab at lab 00
	.venv/bin/labkit lab

test: env  ## the tests of everything that a change can break
	.venv/bin/python -m tests

test-all: env  ## the same tests, and those marked `long`
	.venv/bin/python -m tests --all

tour: env  ## the solved labs without a browser, and their speed ladders
	.venv/bin/labkit tour

course: env  ## runs and grades every solved lab (must get full marks) and every untouched lab (must get zero)
	.venv/bin/python -m tests.benchmarks.whole_course

env:  ## the environment alone
	@environment/setup.sh

PEERS = hf,hf-compiled,ctranslate2,openvino

bench: env  ## labkit and other engines, growth, perplexity and the memory of loading, on this machine; writes the records
	.venv/bin/labkit bench --batch 1,8 --against $(PEERS) --save tests/benchmarks/results/cpu_gptj_tiny_fp32.json
	for precision in fp32 bf16 int8 int4; do .venv/bin/labkit bench --model gpt-j-405m-synthetic --precision $$precision \
		--batch 1,8 --new-tokens 32 --against $(PEERS) --save tests/benchmarks/results/cpu_gpt_j_405m_$$precision.json || exit 1; done
	.venv/bin/python -m tests.benchmarks.growth --precision bf16 --save tests/benchmarks/results/cpu_growth_gpt_j_405m_bf16.json
	.venv/bin/python -m tests.benchmarks.perplexity --save tests/benchmarks/results/cpu_perplexity_gptj_tiny.json
	.venv/bin/python -m tests.benchmarks.load_memory --save tests/benchmarks/results/cpu_load_memory.json

gpu:  ## all GPU tests and benchmarks in one call; needs a GPU and a Python with a CUDA build of torch
	PYTHONPATH=. $(or $(PYTHON),python3) -m tests.gpu

docker:  ## the learner's image
	docker build --file docker/Dockerfile --tag labkit-course .

release: env  ## labs/ and solutions/*.ipynb from solutions/*.py
	.venv/bin/labkit release

docs: env  ## the documentation site in build/docs/site, which needs no network; a broken link is an error
	.venv/bin/python -m docs.site

lint: env
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

wheel:  ## dist/: the source, and one manylinux wheel per architecture for every Python that labkit accepts
	@environment/wheels.sh
