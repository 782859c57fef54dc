"""Writes `gptj-tiny/calibration_sample.txt`: passages of the training text, for quantizers that need activations.

    python -m labkit.builtin.calibration --work-dir build/corpus

The passages are chosen at random with a fixed seed. Each passage has about 2 KB, and no two passages are from the same training
piece. No passage is from a held-out piece.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from labkit.builtin.corpus import DOCUMENT_END, Corpus, build_corpus, split_pieces

SEED, PASSAGES, PASSAGE_BYTES = 2026, 160, 2_048


def calibration_sample(corpus: Corpus) -> str:
    """Return the passages as one text, in the order of the corpus. Marks of the end of a document become line breaks."""
    chooser = random.Random(SEED)
    chosen = sorted(chooser.sample(range(len(corpus.train)), PASSAGES))
    passages = [chooser.choice(split_pieces(corpus.train[index], PASSAGE_BYTES)[:-1]) for index in chosen]
    return "".join(passage.replace(DOCUMENT_END, "\n").strip() + "\n" for passage in passages)


def main() -> None:
    """Write the sample beside the model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("build/corpus"))
    sample = calibration_sample(build_corpus(parser.parse_args().work_dir))
    path = Path(__file__).with_name("gptj-tiny") / "calibration_sample.txt"
    path.write_text(sample, "utf-8")
    print(f"{path}: {len(sample.encode()):,} bytes")


if __name__ == "__main__":
    main()
